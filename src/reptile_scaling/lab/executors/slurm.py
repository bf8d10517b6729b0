"""A Slurm job for each job, through submitit; no Ray, and no program that has to stay on a node. Knows no training.

The run's folder lies where every node sees it. A Slurm job holds what it writes into, so that no second one computes
it; shortly before its time is up it saves, and Slurm queues it again.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from reptile_scaling.errors import InputError
from reptile_scaling.interruption import StopRequested, share_flag
from reptile_scaling.lab.executors.executor import ATTEMPTS, Assignment, Job, MakeWorker, Queued
from reptile_scaling.model.devices import choose_devices
from reptile_scaling.runs.lease import held

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 75.0
"""Of the 90 between submitit's signal and the end of the job's time."""
MINUTES = 60
"""That a job asks for where `slurm` does not say; submitit's own default is 5."""
MOST_REQUEUES = 1000
"""Of one job, after time-outs: a cohort may take many times as long as a partition allows."""
LOGS = "slurm"
STOP = ".stop"


def on_slurm(assignment: Assignment[Job]) -> None:
    """As `Executor` says, each job as a Slurm job; one that has been lost `ATTEMPTS` times is given up."""
    stop_file = assignment.folder.resolve() / LOGS / STOP
    cluster = _Cluster(assignment, _submitter(stop_file.parent, assignment.options), stop_file)
    stop_file.unlink(missing_ok=True)
    try:
        cluster.run()
    finally:
        cluster.cancel()
        stop_file.unlink(missing_ok=True)
    if assignment.stop.is_set():
        raise StopRequested


def _submitter(folder: Path, options: Mapping[str, object]) -> Any:
    """What submits with these options. InputError where submitit, Slurm or one of the options is not known."""
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "executor 'slurm' needs the package submitit: pip install 'reptile-scaling-law[slurm]'"
        ) from error
    cluster = str(options.get("cluster", "slurm"))
    generic = submitit.AutoExecutor._valid_parameters()
    given = {key if key in generic else f"slurm_{key}": value for key, value in options.items() if key != "cluster"}
    if isinstance(time_limit := options.get("time"), str):
        raise InputError(f"slurm.time = {time_limit!r} is no number of minutes: write 240 for four hours")
    defaults = {"name": folder.parent.name} | ({} if "time" in options else {"timeout_min": MINUTES})
    try:
        submitter = submitit.AutoExecutor(folder, cluster, **{f"{cluster}_max_num_timeout": MOST_REQUEUES})
        submitter.update_parameters(**(defaults | given))
    except (NameError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"slurm = {dict(options)} is refused by submitit ({reason}): mend that key") from error
    except RuntimeError as error:
        raise InputError(
            "executor 'slurm' finds no srun here: run it on a node that submits jobs, or try it with "
            "slurm: {cluster: local}"
        ) from error
    return submitter


@dataclass
class SlurmJob(Generic[Job]):
    """What a Slurm job does. Its main thread waits for signals while another one performs the job."""

    make_worker: MakeWorker[Job]
    folder: Path
    job: Job
    held: list[Path]
    """What no other process may write into meanwhile."""
    stop_file: Path
    """Its presence asks the step in progress to be the last."""
    _stop: threading.Event | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __call__(self) -> str:
        """`done`, `stopped`, or what only the user can mend; whatever else it meets is raised."""
        if self.stop_file.exists():
            return "stopped"
        try:
            with ExitStack() as holding:
                for folder in self.held:
                    holding.enter_context(held(folder))
                return self._performed()
        except StopRequested:
            return "stopped"
        except InputError as error:
            return str(error)

    def _performed(self) -> str:
        """Raises what the job raised."""
        self._stop, raised = threading.Event(), list[BaseException]()
        share_flag(self._stop)
        self._thread = threading.Thread(target=self._perform, args=(raised,), daemon=True)
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(SECONDS_BETWEEN_LOOKS)
            if self.stop_file.exists():
                self._stop.set()
        if raised:
            raise raised[0]
        return "done"

    def _perform(self, raised: list[BaseException]) -> None:
        try:
            (device, *_) = choose_devices(("auto",))
            perform = self.make_worker(self.folder, _name_of_this_job(), device)
            try:
                perform(self.job)
            finally:
                perform.close()
        except BaseException as error:
            raised.append(error)

    def checkpoint(self) -> Any:
        """Called in the main thread when the job's time is nearly up: saves, and hands over what is to be queued."""
        from submitit.helpers import DelayedSubmission

        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join(SECONDS_TO_SAVE)
        return DelayedSubmission(replace(self))


def _name_of_this_job() -> str:
    """Good for a file."""
    from submitit import JobEnvironment

    return f"slurm_{JobEnvironment().job_id}"


@dataclass
class _Submitted(Generic[Job]):
    queued: Queued[Job]
    handle: Any


@dataclass
class _Cluster(Generic[Job]):
    """The side of the process that submits."""

    assignment: Assignment[Job]
    submitter: Any
    stop_file: Path
    submitted: list[_Submitted[Job]] = field(default_factory=list)

    def run(self) -> None:
        for job in self.assignment.jobs:
            self._submit(Queued(job))
        told = False
        while self.submitted:
            if self.assignment.stop.is_set() and not told:
                self._tell_to_stop()
                told = True
            for one in [one for one in self.submitted if one.handle.done()]:
                self._ended(one)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def cancel(self) -> None:
        """What is still submitted, at once."""
        for one in self.submitted:
            one.handle.cancel(check=False)

    def _submit(self, queued: Queued[Job]) -> None:
        from submitit.core.utils import FailedJobError

        assignment = self.assignment
        held_folders = [folder.resolve() for folder in assignment.folders_of(queued.job)]
        root = assignment.folder.resolve()
        work = SlurmJob(assignment.make_worker, root, queued.job, held_folders, self.stop_file)
        try:
            handle = self.submitter.submit(work)
        except FailedJobError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"sbatch refused the job ({reason}): mend what slurm = {dict(assignment.options)} asks"
            ) from error
        self.submitted.append(_Submitted(queued, handle))

    def _tell_to_stop(self) -> None:
        """Jobs that run save after their step; those that wait in the queue are taken out of it."""
        self.stop_file.touch()
        for one in [one for one in self.submitted if one.handle.state == "PENDING"]:
            one.handle.cancel(check=False)
            self.submitted.remove(one)

    def _ended(self, one: _Submitted[Job]) -> None:
        """It is done, was stopped, met what only the user can mend, or is lost and submitted again."""
        self.submitted.remove(one)
        error = one.handle.exception()
        message = one.handle.result() if error is None else None
        paths = one.handle.paths
        for pickle in (paths.submitted_pickle, paths.result_pickle):  # the data set and all; the log stays
            with suppress(OSError):
                pickle.unlink(missing_ok=True)
        if message in ("done", "stopped") or self.assignment.stop.is_set():
            return
        if error is None:
            raise InputError(str(message))
        one.queued.deaths += 1
        if one.queued.deaths < ATTEMPTS:
            self._submit(one.queued)
        else:
            reason = " ".join(str(error).split())[-200:]
            self.assignment.give_up(
                one.queued.job, f"its Slurm job was lost {ATTEMPTS} times ({reason}; see {paths.stderr})"
            )
