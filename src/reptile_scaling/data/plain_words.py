"""What a class name says, for a reader of plain text."""

import re


def plain_words(class_name: str) -> str:
    """A class name as plain words: `card_arrival` → `card arrival`, `TurnOn-light` → `turn on light`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", class_name)
    return " ".join(re.sub(r"[^A-Za-z0-9']+", " ", spaced).lower().split())
