"""Banking77: 13,083 customer queries, 77 intents (Casanueva et al. 2020, arXiv:2003.04807), CC-BY-4.0."""

from pathlib import Path

from reptile_scaling.data.class_lists import holds_class_lists
from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.data.files import read_table, rows_of
from reptile_scaling.data.hub import read_hub_rows

# The original repository is a script data set, which `datasets` no longer loads; this copy is parquet.
HUB_REPOSITORY = "mteb/banking77"
HUB_REVISION = "0fd18e25b25c072e09e0d92ab615fda904d66300"


def read_banking77(data_dir: Path | None) -> IntentDataset:
    """Train and test part together (the class split decides what is tested), from `data_dir` or from the Hub.

    A `data_dir` that holds `splits/` and no tables gives the published splits of the Hub's utterances.
    """
    if data_dir is None or (holds_class_lists(data_dir) and not (data_dir / "train.csv").exists()):
        return make_dataset("banking77", read_hub_rows(HUB_REPOSITORY, HUB_REVISION))
    rows = [row for name in ("train.csv", "test.csv") for row in _rows(data_dir / name)]
    return make_dataset("banking77", rows)


def _rows(path: Path) -> list[tuple[str, str]]:
    return rows_of(read_table(path), str(path))
