"""The one exception for bad input: the command line prints it as one sentence and exits with 2."""


class InputError(ValueError):
    """A value the user gave cannot work. The message names the value and a cure that works."""
