"""What an adapted folder keeps so that labels can be added later: its support set and the initialisation it began from.

Adapting anew to old and new utterances together, from the same start, forgets nothing: it is what adapting to all of
them at once gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.model.peft_io import ADAPTER_FILES, read_facts
from reptile_scaling.seals import SUMS
from reptile_scaling.storage import read_rows, write_bytes, write_rows

SUPPORT, START = "support.csv", "start"


@dataclass(frozen=True)
class Shot:
    """A row of `support.csv`."""

    text: str
    label: str


def keep_support(folder: Path, adapter: Path, support: IntentDataset) -> None:
    """Puts the support set into the folder of an adapted model, and a copy of the initialisation `adapter`."""
    write_rows(folder / SUPPORT, Shot, [Shot(text, label) for text, label in _rows(support)])
    for name in (*ADAPTER_FILES, SUMS):
        if (adapter / name).is_file():
            write_bytes(folder / START / name, (adapter / name).read_bytes())


def begin_again(adapter: Path, support: IntentDataset) -> tuple[Path, IntentDataset]:
    """The initialisation to adapt, and what to: where `adapter` has labels already, its utterances come before these.

    A text that comes with another label than before is left out, and the notes say so. InputError for an adapted
    folder that has kept no support set.
    """
    labels = read_facts(adapter)["labels"]
    if labels is None:
        return adapter, support
    kept = read_rows(adapter / SUPPORT, Shot)
    if not kept or not (adapter / START).is_dir():
        raise InputError(
            f"adapter {str(adapter)!r} is adapted to {', '.join(labels)} already and keeps no {SUPPORT} and {START}/ "
            "to begin again from: give its initialisation, and the utterances of all labels"
        )
    both = make_dataset(support.name, [*((shot.text, shot.label) for shot in kept), *_rows(support)])
    return adapter / START, replace(both, notes=(*support.notes, *both.notes))


def _rows(support: IntentDataset) -> Iterator[tuple[str, str]]:
    return ((text, support.class_names[c]) for text, c in zip(support.texts, support.labels, strict=True))
