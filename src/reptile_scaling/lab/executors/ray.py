"""Jobs over the nodes of a Ray cluster; an existing one, or a local one that is started. Knows no training.

Each GPU of the cluster gets a worker, and each node without GPUs one. A worker whose node sees the run's folder works
in it; elsewhere it works in a copy, which is fetched back through Ray's object store every few seconds. A worker that
is lost with its node costs what had not been fetched.
"""

import secrets
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested, share_flag
from reptile_scaling.lab.executors.executor import ATTEMPTS, Assignment, Job, MakeWorker, Queued
from reptile_scaling.storage import write_bytes

SECONDS_BETWEEN_FETCHES = 2.0
SECONDS_WITHOUT_NODES = 90.0
SECONDS_UNTIL_DEATH_IS_KNOWN = 30.0
TOKEN = ".ray_token"
Files = dict[str, bytes]
"""Path below the run's folder → content."""


def on_a_ray_cluster(assignment: Assignment[Job]) -> None:
    """As `Executor` says, on every node there is; a job with which `ATTEMPTS` workers were lost is given up."""
    ray, folder = _connected(), assignment.folder
    token = secrets.token_hex(8)
    write_bytes(folder / TOKEN, token.encode())
    cluster = _Cluster(ray, assignment, folder.resolve(), token, deque(map(Queued, assignment.jobs)))
    try:
        cluster.run()
    finally:
        cluster.dismiss()
        (folder / TOKEN).unlink(missing_ok=True)
    if assignment.stop.is_set():
        raise StopRequested


def _connected() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("executor 'ray' needs the package ray: pip install 'reptile-scaling-law[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except ConnectionError:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    return ray


class ClusterWorker:
    """Lives on a node as a Ray actor of two threads: one performs, one fetches and stops."""

    def __init__(self, make_worker: MakeWorker[Any], folder: Path, token: str, name: str) -> None:
        self._stop = threading.Event()
        share_flag(self._stop)
        seen = folder / TOKEN
        self._is_shared = seen.is_file() and seen.read_text() == token
        self._root = folder if self._is_shared else Path(tempfile.mkdtemp(prefix="reptile-scaling-"))
        self._make_worker, self._name = make_worker, name
        self._perform: Callable[[Any], None] | None = None
        self._sent: dict[str, tuple[int, int]] = {}

    def perform(self, job: Any, files: Files, device: str) -> str:
        """`done`, `stopped`, or what only the user can mend."""
        if not self._is_shared:
            for path, content in files.items():
                if not (self._root / path).exists():
                    write_bytes(self._root / path, content)
        try:
            self._perform = self._perform or self._make_worker(self._root, self._name, device)
            self._perform(job)
        except StopRequested:
            return "stopped"
        except InputError as error:
            return str(error)
        return "done"

    def changed_files(self) -> Files:
        """What was written since the last call; nothing where the folder is shared."""
        found: Files = {}
        if self._is_shared:
            return found
        # Renamed into place whole, so a file that is there can be read. A result marks its cell as done, so it is
        # looked for first and sent last: whatever was written before it is then there, and sent before it.
        marks = sorted(self._root.rglob("final_result.json"))
        for path in [*sorted(path for path in self._root.rglob("*") if path.name != "final_result.json"), *marks]:
            name = str(path.relative_to(self._root))
            if path.name.startswith(".") or not path.is_file():
                continue
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if self._sent.get(name) != version:
                found[name] = path.read_bytes()
                self._sent[name] = version
        return found

    def stop(self) -> None:
        """Asks the step in progress to be the last."""
        self._stop.set()


@dataclass
class _Member(Generic[Job]):
    """A worker of the cluster and what it is doing."""

    name: str
    node: str
    device: str
    actor: Any
    queued: Queued[Job] | None = None
    outcome: Any = None


@dataclass
class _Cluster(Generic[Job]):
    """The driver's side."""

    ray: Any
    assignment: Assignment[Job]
    folder: Path
    """The assignment's, as other machines may see it: absolute."""
    token: str
    queue: deque[Queued[Job]]
    members: list[_Member[Job]] = field(default_factory=list)
    avoided_until: dict[str, float] = field(default_factory=dict)
    """Nodes that have just lost or refused a worker: a cluster takes a while to notice that one is dead."""

    def run(self) -> None:
        told, stop = False, self.assignment.stop
        deserted = time.monotonic()
        while self.queue or any(m.queued for m in self.members):
            if stop.is_set():
                if not told:
                    for member in self.members:
                        member.actor.stop.remote()
                told = True
                if not any(m.queued for m in self.members):
                    return
            else:
                self._hire()
                for member in self.members:
                    if member.queued is None and self.queue:
                        self._give(member, self.queue.popleft())
            if self.members:
                deserted = time.monotonic()
                self._listen()
            elif time.monotonic() - deserted > SECONDS_WITHOUT_NODES:
                raise InputError("the Ray cluster has no node with a free CPU or GPU: start one, then run again")
            else:
                time.sleep(1.0)

    def dismiss(self) -> None:
        for member in self.members:
            self.ray.kill(member.actor)

    def _hire(self) -> None:
        """A worker for every free GPU, and for every node without GPUs, that the cluster has now."""
        have = [(m.node, m.name) for m in self.members]
        for node in self.ray.nodes():
            resources, node_id = node["Resources"], node["NodeID"]
            n_gpus, n_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
            if not node["Alive"] or time.monotonic() < self.avoided_until.get(node_id, 0.0):
                continue
            for i in range(n_gpus or min(1, n_cpus)):
                name = f"node_{node_id[:8]}" + (f"-{i + 1}" if n_gpus else "")
                if (node_id, name) in have or len(self.members) >= len(self.queue) + len(have):
                    continue
                device, cpus = ("cuda:0", 1) if n_gpus else ("cpu", n_cpus)
                self.members.append(self._hired(name, node_id, device, cpus))

    def _hired(self, name: str, node_id: str, device: str, n_cpus: int) -> _Member[Job]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        n_gpus = 1 if device.startswith("cuda") else 0
        wrapped = self.ray.remote(max_concurrency=2, num_cpus=n_cpus, num_gpus=n_gpus, scheduling_strategy=place)
        actor = wrapped(ClusterWorker).remote(self.assignment.make_worker, self.folder, self.token, name)
        return _Member(name, node_id, device, actor)

    def _give(self, member: _Member[Job], queued: Queued[Job]) -> None:
        member.queued = queued
        member.outcome = member.actor.perform.remote(queued.job, self._files(queued.job), member.device)

    def _files(self, job: Job) -> Files:
        """What the job resumes from, for workers that do not see the folder."""
        paths = [path for folder in self.assignment.folders_of(job) for path in folder.rglob("*")]
        root = self.assignment.folder
        return {str(p.relative_to(root)): p.read_bytes() for p in paths if p.is_file() and p.name[0] != "."}

    def _listen(self) -> None:
        """Waits for news, a moment at most; fetches what was written meanwhile."""
        busy = [m for m in self.members if m.queued]
        self.ray.wait([m.outcome for m in busy], timeout=SECONDS_BETWEEN_FETCHES)
        for member in busy:
            try:
                done, _ = self.ray.wait([member.outcome], timeout=0)
                self._fetch(member)
                message = self.ray.get(member.outcome) if done else None
            except self.ray.exceptions.RayError as error:
                self._lost(member, error)
                continue
            if message == "stopped":
                assert member.queued is not None
                self.queue.appendleft(member.queued)
            if message in ("done", "stopped"):
                member.queued = None
            elif message is not None:
                raise InputError(message)

    def _fetch(self, member: _Member[Job]) -> None:
        for name, content in self.ray.get(member.actor.changed_files.remote()).items():
            write_bytes(self.folder / name, content)

    def _lost(self, member: _Member[Job], error: Exception) -> None:
        """A worker or its node has died; its job goes back into the queue."""
        assert member.queued is not None
        self.members.remove(member)
        queued = member.queued
        never_began = isinstance(error, self.ray.exceptions.ActorUnschedulableError)
        self.avoided_until[member.node] = time.monotonic() + (3.0 if never_began else SECONDS_UNTIL_DEATH_IS_KNOWN)
        queued.deaths += not never_began
        if queued.deaths < ATTEMPTS:
            self.queue.appendleft(queued)
        else:
            reason = " ".join(str(error).split())[:200]
            self.assignment.give_up(
                queued.job, f"its worker was lost {ATTEMPTS} times ({type(error).__name__}: {reason})"
            )
