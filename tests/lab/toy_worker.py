"""A worker that only writes files, for the tests of executors: its processes start without the package's models."""

import os
import signal
import time
from pathlib import Path

from reptile_scaling.errors import InputError
from reptile_scaling.interruption import stop_if_requested


class ToyWorker:
    """Performs a job by writing its name; some jobs go wrong."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        self.folder, self.name = folder, name

    def __call__(self, job: str) -> None:
        with open(self.folder / "attempts", "a") as file:
            file.write(job + "\n")
        first = not (self.folder / f"{job}.tried").exists()
        (self.folder / f"{job}.tried").touch()
        if job == "murderous" or (job == "fatal once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "disk full":
            raise InputError("'x' cannot be written (No space left on device): free some space")
        while job == "endless" or (job == "long" and first):
            time.sleep(0.01)
            stop_if_requested()
        (self.folder / f"{job}.done").write_text(self.name)

    def close(self) -> None:
        (self.folder / "closed").touch()
