"""How each tracker of accelerate begins a run, goes on with it and shows a picture: an entry in TRACKERS each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.errors import InputError

Handle = Any
"""A `GeneralTracker` of accelerate."""


@dataclass(frozen=True)
class Place:
    """Where a tracker's run lies."""

    project: str
    name: str
    folder: Path
    """For what a tracker writes into a folder that it is told; in it each has its own."""
    run_id: str = ""
    """As we made it for a new run; as the tracker made it where it makes its own, once the run is begun."""
    is_begun: bool = False

    @property
    def begun_id(self) -> str | None:
        """For trackers that make their own: None of a new run."""
        return self.run_id if self.is_begun else None


@dataclass(frozen=True)
class Tracker:
    """What accelerate leaves to its user."""

    begin: Callable[[type[Any], Place], Handle]
    """From accelerate's class, not started yet."""
    draw: Callable[[Handle, str, Path], None]
    """Shows a PNG under a name."""
    id_of: Callable[[Handle], str] | None = None
    """Of the run, where the tracker makes it up."""


def open_tracker(name: str, place: Place) -> tuple[Handle, Place]:
    """A run of the tracker, new or gone on with, and its place with the run's id."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    tracker = TRACKERS[name]
    own = replace(place, folder=place.folder / name)
    own.folder.mkdir(parents=True, exist_ok=True)
    handle = tracker.begin(LOGGER_TYPE_TO_CLASS[name], own)
    handle.start()
    return handle, replace(place, run_id=tracker.id_of(handle) if tracker.id_of else place.run_id, is_begun=True)


def check_trackers(names: Sequence[str]) -> None:
    """InputError for a tracker that is unknown or not installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    installed = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"track names {name!r}, which is no tracker: use {', '.join(TRACKERS)}")
        if name not in installed:
            raise InputError(
                f"track names {name!r}, whose package is not installed: run pip install "
                f"'reptile-scaling-law[{name}]', or leave it out"
            )


def _pixels(picture: Path) -> np.ndarray:
    """Height × width × RGB, 0 to 255."""
    from matplotlib.image import imread  # a worker names trackers and draws nothing

    return (np.asarray(imread(picture))[..., :3] * 255).astype(np.uint8)


def _mlflow(make: type[Any], place: Place) -> Handle:
    return make(place.project, run_name=place.name, run_id=place.begun_id)


def _comet(make: type[Any], place: Place) -> Handle:
    from comet_ml import ExperimentConfig

    return make(place.project, experiment_key=place.run_id, experiment_config=ExperimentConfig(name=place.name))


def _clearml(make: type[Any], place: Place) -> Handle:
    return make(
        project_name=place.project, task_name=place.name, continue_last_task=place.begun_id or False,
        reuse_last_task_id=False, auto_connect_frameworks=False,
    )  # fmt: skip


def _dvclive(make: type[Any], place: Place) -> Handle:
    return make(dir=str(place.folder / place.name), resume=place.is_begun, save_dvc_exp=False, dvcyaml=False)


def _draw_trackio(handle: Handle, name: str, picture: Path) -> None:
    from trackio import Image

    handle.log({name: Image(str(picture))})


def _draw_aim(handle: Handle, name: str, picture: Path) -> None:
    from PIL import Image

    handle.log_images({name: Image.fromarray(_pixels(picture))})


TRACKERS: Mapping[str, Tracker] = {
    "tensorboard": Tracker(
        lambda make, place: make(place.name, place.folder),
        lambda handle, name, picture: handle.log_images({name: _pixels(picture)[None]}, step=0, dataformats="NHWC"),
    ),
    "wandb": Tracker(
        lambda make, place: make(place.project, name=place.name, id=place.run_id, resume="allow"),
        lambda handle, name, picture: handle.log_images({name: [_pixels(picture)]}),
    ),
    "trackio": Tracker(
        # Its runs are known by their names.
        lambda make, place: make(place.project, name=f"{place.name}-{place.run_id[:6]}", resume="allow", embed=False),
        _draw_trackio,
    ),
    "mlflow": Tracker(
        _mlflow,
        lambda handle, name, picture: handle.log_artifact(str(picture)),
        id_of=lambda handle: str(handle.tracker.info.run_id),
    ),
    "aim": Tracker(
        lambda make, place: make(place.name, place.folder, run_hash=place.begun_id, experiment=place.project),
        _draw_aim,
        id_of=lambda handle: str(handle.tracker.hash),
    ),
    "clearml": Tracker(
        _clearml,
        lambda handle, name, picture: handle.log_images({name: _pixels(picture)}, step=0),
        id_of=lambda handle: str(handle.tracker.id),
    ),
    "comet_ml": Tracker(_comet, lambda handle, name, picture: handle.tracker.log_image(str(picture), name=name)),
    "dvclive": Tracker(_dvclive, lambda handle, name, picture: handle.tracker.log_image(picture.name, picture)),
    "swanlab": Tracker(
        lambda make, place: make(place.project, name=place.name, id=place.run_id, resume="allow"),
        lambda handle, name, picture: handle.log_images({name: [_pixels(picture)]}),
    ),
}
