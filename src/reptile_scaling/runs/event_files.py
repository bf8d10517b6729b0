"""A cell's curves as TensorBoard event files; the extra `tensorboard`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reptile_scaling.errors import InputError


class EventFile:
    """Scalars of one cell over its meta-steps."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """Whatever an earlier start wrote past `resumed_at` is superseded."""
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=resumed_at + 1, flush_secs=10)

    def add(self, meta_step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, meta_step)

    def close(self) -> None:
        self._writer.close()


def check_event_files() -> None:
    """Raises InputError where the package that writes them is absent."""
    if find_spec("tensorboardX") is None:
        raise InputError(
            "tensorboard = True needs the package tensorboardX: run pip install 'reptile-scaling-law[tensorboard]', "
            "or set tensorboard to false"
        )
