"""What an executor is: it has jobs performed somewhere, and knows nothing of what they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from reptile_scaling.interruption import Flag

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)

ATTEMPTS = 3
"""Workers that a job may take down before it is given up."""


@runtime_checkable
class Performer(Protocol[JobIn]):
    """Performs jobs on one device until it is closed, and records their outcome itself."""

    def __call__(self, job: JobIn, /) -> None: ...
    def close(self) -> None: ...


MakeWorker = Callable[[Path, str, str], Performer[Job]]
"""(folder, name, device) → what performs jobs there and writes below the folder. Picklable, as the jobs are."""


@dataclass(frozen=True)
class Assignment(Generic[Job]):
    """Jobs to be performed once each, and all that an executor is told about them."""

    jobs: Sequence[Job]
    make_worker: MakeWorker[Job]
    devices: Sequence[str]
    """Of this machine; an executor that finds its own has no use for them."""
    folder: Path
    """What the jobs write into, and resume from."""
    folders_of: Callable[[Job], list[Path]]
    """What a job resumes from, below `folder`: for workers that do not see it."""
    give_up: Callable[[Job, str], None]
    """Told of a job that no worker could do, and why."""
    stop: Flag
    """Once set, each worker's step in progress is the last."""
    imports: Sequence[str] = ()
    """Modules that a worker needs before it can begin."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What the user says to the executor's own scheduler."""


@dataclass(frozen=True)
class Executor:
    """How an assignment is performed, each worker taking the next job when it is free.

    `perform` raises StopRequested once `stop` is set and every worker has stopped, and InputError where a worker met
    what only the user can mend.
    """

    perform: Callable[[Assignment[Any]], None]
    finds_devices: bool = False
    """Whether it looks for devices itself, beyond this machine, so that a configuration may name none."""


@dataclass
class Queued(Generic[Job]):
    """A job and how often it has taken its worker down."""

    job: Job
    deaths: int = 0
