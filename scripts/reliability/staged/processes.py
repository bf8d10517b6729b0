"""Commands in processes of their own, forked from one that has imported the libraries.

torch and transformers take ten seconds of a core to import; tests and kills start commands by the dozen. The package
itself is imported by each process, as it is by a user's.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

MAIN = "from reptile_scaling.cli import main; main()"
LIBRARIES = [
    "torch", "transformers.modeling_utils", "transformers.models.llama.modeling_llama", "transformers.models.auto",
    "safetensors.torch", "pandas", "scipy.stats", "scipy.optimize", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2", "pydantic", "typer", "rich.live",
]  # fmt: skip

_context = multiprocessing.get_context("forkserver")


def begin(more: Sequence[str] = ()) -> None:
    """Starts the process that is forked from: a program has one, and the first who asks says what it imports."""
    _context.set_forkserver_preload([*LIBRARIES, *more])
    multiprocessing.forkserver.ensure_running()


class Started:
    """A process that runs Python code, with what one asks of `subprocess.Popen`."""

    def __init__(
        self, code: str, arguments: tuple[object, ...], cwd: Path | None, environment: Mapping[str, str] | None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._files = [self._folder / name for name in ("stdout", "stderr")]
        own = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **(environment or {})}
        target = (code, [str(one) for one in arguments], self._files, str(cwd or Path.cwd()), own)
        self._process = _context.Process(target=_run, args=target)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it printed, once it has ended; one that does not end in time is killed. Asked for once."""
        self._process.join(timeout)
        is_late = self._process.is_alive()
        if is_late:
            self._process.kill()
            self._process.join()
        printed, errors = (file.read_text() if file.exists() else "" for file in self._files)
        shutil.rmtree(self._folder)
        if is_late:
            raise subprocess.TimeoutExpired("python", timeout, printed, errors)
        return printed, errors


def start(
    code: str, *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Started:
    """Python code with its arguments, on its way."""
    return Started(code, arguments, cwd, environment)


def call(
    *arguments: object,
    cwd: Path | None = None,
    code: str = MAIN,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """The command line with its arguments, to its end."""
    process = start(code, *arguments, cwd=cwd, environment=environment)
    printed, errors = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(["reptile-scaling", *map(str, arguments)], process.returncode, printed, errors)


def _run(code: str, arguments: list[str], files: list[Path], cwd: str, environment: dict[str, str]) -> None:
    for number, name in enumerate(files, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server of forks has none
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
