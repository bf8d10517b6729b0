"""The exceptions for what people can mend: the command line prints them as one sentence and exits with 2."""


class InputError(ValueError):
    """A value the user gave cannot work. The message names the value and a cure that works."""


class StorageError(InputError):
    """The disk refuses: full, over a limit, read-only. What was written before stays as it was."""
