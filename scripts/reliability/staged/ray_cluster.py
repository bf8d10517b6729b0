"""A Ray cluster of a head and two working nodes on this machine, to be killed in parts."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6399
SMALL = ("--object-store-memory=100000000", "--disable-usage-stats")
N_NODES = 2


def environment() -> dict[str, str]:
    """For every process of Ray, and for a command that finds no cluster."""
    paths = os.pathsep.join(p for p in sys.path if p)
    # A token that one local cluster leaves in the home folder locks the next one's nodes out.
    ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **ray, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}


class RayCluster:
    """The head runs nothing; each node has one CPU and a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._is_up = False

    def environment(self) -> dict[str, str]:
        """For a command that finds this cluster."""
        return {**environment(), "RAY_ADDRESS": f"127.0.0.1:{PORT}"}

    def __enter__(self) -> "RayCluster":
        self.mend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_head()

    def mend(self) -> None:
        """Head and nodes as they were before a kill; nodes that start at once may collide."""
        if not self._is_up:
            self._ray("start", "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", *SMALL)
            self._is_up = True
        self._nodes = [node for node in self._nodes if node.poll() is None]
        while len(self._nodes) < N_NODES:
            self._nodes.append(self._node())

    def kill_node(self, rng: random.Random | None = None) -> None:
        """One node with all of its processes: the first where nothing is drawn."""
        node = rng.choice(self._nodes) if rng else self._nodes[0]
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def kill_head(self) -> None:
        """And the nodes with it, which do not outlive it."""
        for node in self._nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        self._nodes, self._is_up = [], False
        self._ray("stop", "--force")

    def _node(self) -> subprocess.Popen[bytes]:
        """Once it has joined."""
        log = self._folder / f"node_{time.monotonic_ns()}.log"
        with open(log, "wb") as file:
            node = subprocess.Popen(
                [RAY, "start", f"--address=127.0.0.1:{PORT}", "--num-cpus=1", "--block", *SMALL],
                stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
            )  # fmt: skip
        for _ in range(600):
            if "Ray runtime started" in log.read_text():
                return node
            assert node.poll() is None, log.read_text()
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    def _ray(self, *arguments: str) -> None:
        done = subprocess.run([RAY, *arguments], capture_output=True, text=True, timeout=120, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
