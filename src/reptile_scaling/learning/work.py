"""What a sweep's time goes into, counted; `estimate` multiplies it by what each takes on the device at hand."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Work:
    """How often each thing is done."""

    visits: int = 0
    """Tasks that meta-steps of training take in."""
    inner_steps: int = 0
    """Inner steps of one task at evaluation."""
    readings: int = 0
    """Forwards of one task's query set."""
    validation_passes: int = 0
    """Readings of all validation tasks before any inner step: each of their utterances once."""
    test_passes: int = 0
    """The same of all test tasks."""
    whole_forwards: int = 0
    """Utterances through the whole frozen model, nothing of them cached."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))
