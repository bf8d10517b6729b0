"""A data set on the Hugging Face Hub, pinned to a revision."""

from collections.abc import Sequence
from pathlib import Path

from reptile_scaling.data.files import rows_of
from reptile_scaling.errors import InputError


def read_hub_rows(repository: str, revision: str) -> list[tuple[str, str]]:
    """(text, label) rows of all splits of a Hub data set; no remote code is run.

    Raises InputError when the Hub or the data set cannot be reached.
    """
    # Imported here: `datasets` takes seconds to import and most runs do not need it.
    from datasets import DatasetDict, load_dataset

    try:
        splits = load_dataset(repository, revision=revision)
    except Exception as error:  # the library raises a different type for every network trouble
        raise _unreachable(repository, error) from error
    assert isinstance(splits, DatasetDict), type(splits)
    return [row for name in splits for row in rows_of(splits[name].to_pandas(), f"{repository}/{name}")]


def fetch_files(repository: str, revision: str, patterns: Sequence[str]) -> Path:
    """A folder with those files of a Hub data set that fit a pattern; fetched once and kept in the Hub's cache.

    Raises InputError when the Hub or the data set cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    except Exception as error:  # the library raises a different type for every network trouble
        raise _unreachable(repository, error) from error
    return Path(folder)


def _unreachable(repository: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"data set {repository!r} cannot be loaded from the Hub ({reason}): "
        "check the connection, or set data_dir to a folder with a local copy"
    )
