"""Each tracker with its own files: what it has of a cell that was cut, went on from an older checkpoint, and ended."""

import importlib.util
import json
import sqlite3
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from reptile_scaling.config import Config, make_config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.runs.cell_directory import CellDirectory
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellResult, EvalRow, MetaTestTask, TrainRow
from reptile_scaling.tracking import followers
from reptile_scaling.tracking.followers import followed
from reptile_scaling.tracking.notes import law_name
from reptile_scaling.tracking.telling import Listener, begin_accelerate, follow_cell
from reptile_scaling.tracking.trackers import TRACKERS, Place, check_trackers

pytestmark = pytest.mark.endurance

CELL = Cell(2, 0)
LOSS = "train/support_loss_last_step"
RESULT = CellResult(
    n_tasks=2, seed=0, meta_test_loss=0.5, meta_test_loss_std=0.1, meta_test_accuracy=0.75, meta_test_accuracy_std=0.1,
    zero_step_accuracy=0.3, meta_steps=5, distinct_classes=3, distinct_utterances=9, visits_per_task=2.0,
    wall_seconds=1.0, tasks_per_second=2.0, num_meta_test_tasks=1, chance_accuracy=0.3, tokens_per_second=1.0,
)  # fmt: skip


def write(folder: CellDirectory, n_steps: int, *, is_done: bool = False) -> None:
    """A cell's tables after so many steps, of which the even ones and the start were validated."""
    folder.write_config(Config())
    folder.write_train_stats([TrainRow(step, 1.0, 1 / step, 0.5, 0.01) for step in range(1, n_steps + 1)])
    folder.write_eval_stats([EvalRow(step, 1.0, 0.5, 0.3, float("nan")) for step in range(0, n_steps + 1, 2)])
    if is_done:
        folder.write_result(RESULT, [MetaTestTask(0, 0.5, 0.75, 0.3)])


def events_of(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """(step, value) of each tag of TensorBoard's files, in the order they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        while content:  # TFRecord: length, its checksum, the event, its checksum
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                shown = value.image if value.HasField("image") else value.simple_value or list(value.tensor.float_val)
                found.setdefault(value.tag, []).append((event.step, shown))
            content = content[16 + length :]
    return found


def tensorboard_steps(base: Path) -> list[int]:
    return [step for step, _ in events_of(base / "run" / "trackers" / "tensorboard" / CELL.name)[LOSS]]


def mlflow_steps(base: Path) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what SQLAlchemy will not have one day
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{base}/mlflow.db")
    note = RunDirectory(base / "run").cell(CELL).tracker_notes.read("mlflow")
    assert note is not None
    run = client.get_run(note.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["final/meta_test_loss"] == 0.5
    assert run.data.params["k_support"] == str(Config().k_support)
    return [metric.step for metric in client.get_metric_history(note.run_id, LOSS)]


def trackio_steps(base: Path) -> list[int]:
    with sqlite3.connect(base / "trackio" / "run.db") as table:
        rows = table.execute("select step, metrics from metrics order by id").fetchall()
    return [step for step, metrics in rows if LOSS in json.loads(metrics)]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Of an offline run's file: LevelDB's log after seven bytes, in blocks of 32 kB that no record's header crosses."""
    block, header, place, record = 1 << 15, 7, 7, b""
    while place + header <= len(content):
        if place % block > block - header:
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + header])
        record += content[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def wandb_steps(base: Path) -> list[int]:
    """Of the parts of an offline run, which W&B puts together by the id they share."""
    from wandb.proto.wandb_internal_pb2 import Record

    steps = []
    for path in sorted(base.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = Record.FromString(data)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if LOSS in items:
                steps.append(int(items["_step"]))
    return steps


READERS: Mapping[str, Callable[[Path], list[int]]] = {
    "tensorboard": tensorboard_steps, "mlflow": mlflow_steps, "trackio": trackio_steps, "wandb": wandb_steps,
}  # fmt: skip


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.mark.parametrize("tracker", READERS)
def test_curve_of_a_resumed_cell_goes_on_without_doubled_points(tracker: str, offline: Path) -> None:
    """Cut after step 3, resumed from the checkpoint of step 2: step 3 is done again, and told once."""
    if tracker != "tensorboard" and importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed: pip install 'reptile-scaling-law[{tracker}]'")
    run = RunDirectory(offline / "run")
    folder = run.cell(CELL)
    for n_steps in (3, 5):
        with followed(run, [CELL], [tracker], run.title):
            write(folder, 2)
            write(folder, n_steps, is_done=n_steps == 5)
    assert run.tracker_failures() == {}, folder.tracker_notes.log_path.read_text()
    assert READERS[tracker](offline) == [1, 2, 3, 4, 5]


def test_configuration_and_final_figures_are_told_once(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    write(run.cell(CELL), 5, is_done=True)
    for _ in range(2):
        heard_by_tensorboard(run)
    found = events_of(tmp_path / "run" / "trackers" / "tensorboard" / CELL.name)
    assert found["final/meta_test_loss"] == [(0, 0.5)] and found["eval/validation_loss"] == [
        (0, 1.0),
        (2, 1.0),
        (4, 1.0),
    ]
    assert "eval/zero_step_loss" not in found  # not a number
    (settings,) = (tmp_path / "run" / "trackers" / "tensorboard" / CELL.name).glob("*/hparams.yml")
    assert f"k_support: {Config().k_support}\n" in settings.read_text()


def heard_by_tensorboard(run: RunDirectory) -> None:
    """In this process, as the one beside the training does."""
    import threading

    begin_accelerate()
    time.sleep(1.1)  # tensorboardX names a file by the second, and here one process writes all
    over = threading.Event()
    over.set()
    place = Place("toy", CELL.name, run.trackers_folder)
    follow_cell(run.cell(CELL), [Listener("tensorboard", place, run.cell(CELL).tracker_notes)], over)


def test_process_that_is_killed_while_it_tells_leaves_a_gap_and_no_point_twice(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    write(run.cell(CELL), 2)
    heard_by_tensorboard(run)
    notes = run.cell(CELL).tracker_notes
    note = notes.read("tensorboard")
    assert note is not None and note.told == {"train": 2, "eval": 2}
    # As it stands when it is killed before steps 3 and 4 are out.
    notes.write("tensorboard", replace(note, told={"train": 4, "eval": 4}))
    write(run.cell(CELL), 5)
    heard_by_tensorboard(run)
    assert [step for step, _ in events_of(tmp_path / "run" / "trackers" / "tensorboard" / CELL.name)[LOSS]] == [1, 2, 5]


def test_evaluation_that_a_stop_put_off_is_told_when_it_comes(tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    folder = run.cell(CELL)
    write(folder, 4)
    late = folder.read_eval_stats()
    folder.write_eval_stats(late[:-1])
    heard_by_tensorboard(run)
    folder.write_eval_stats(late)
    heard_by_tensorboard(run)
    found = events_of(tmp_path / "run" / "trackers" / "tensorboard" / CELL.name)
    assert [step for step, _ in found["eval/validation_loss"]] == [0, 2, 4]
    assert [step for step, _ in found[LOSS]] == [1, 2, 3, 4]


class Deaf:
    """A tracker whose server goes away at step 3."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def log(self, figures: Mapping[str, float], step: int | None = None) -> None:
        if step == 3 and len(self.heard) < 4:
            raise ConnectionError("no route to host")
        self.heard.append(step or 0)

    def store_init_configuration(self, settings: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...


def test_tracker_that_fails_is_named_hears_no_more_and_goes_on_at_the_next_start(tmp_path, monkeypatch) -> None:
    deaf = Deaf()
    monkeypatch.setattr("reptile_scaling.tracking.telling.open_tracker", lambda name, place: (deaf, place))
    run = RunDirectory(tmp_path / "run")
    points = {"train": {step: {LOSS: 1.0} for step in range(1, 6)}}
    for _ in range(2):
        listener = Listener("wandb", Place("toy", "cell", tmp_path), run.cell(CELL).tracker_notes)
        listener.hear({}, points, {})
        listener.hear({}, {"train": points["train"] | {6: {LOSS: 1.0}}}, {})
        if len(deaf.heard) == 2:
            assert run.tracker_failures() == {"wandb": "ConnectionError: no route to host"}
            deaf.heard += [1, 1]
    assert deaf.heard == [1, 2, 1, 1, 3, 4, 5, 6]
    assert run.tracker_failures() == {}


def test_trackers_that_crash_or_hang_cost_no_cell(tmp_path, monkeypatch) -> None:
    run = RunDirectory(tmp_path / "run")
    write(run.cell(CELL), 1)
    monkeypatch.setattr(followers, "SECONDS_TO_FINISH", 0.3)
    with followed(run, [CELL], ["tensorboard"], "toy"):
        pass
    assert run.tracker_failures()["tensorboard"] == "it did not end within 0 s"
    monkeypatch.setattr(followers, "SECONDS_TO_FINISH", 60.0)
    monkeypatch.setattr(followers.sys, "executable", "/bin/false")
    with followed(run, [CELL], ["tensorboard"], "toy"):
        pass
    assert "its process ended with code 1: see " in run.tracker_failures()["tensorboard"]
    monkeypatch.setattr(followers.sys, "executable", "/nowhere")
    with followed(run, [CELL], ["tensorboard"], "toy"):
        pass
    assert run.tracker_failures()["tensorboard"] == "its process did not start: No such file or directory"


@pytest.mark.parametrize("names, sentence", [
    (["tensorboard", "tensorbord"], "track names 'tensorbord', which is no tracker: use tensorboard, wandb, trackio"),
    (["clearml"], r"track names 'clearml', whose package is not installed: run pip install '.*\[clearml\]', or"),
])  # fmt: skip
def test_tracker_that_cannot_be_told_is_refused_before_a_model_is_loaded(
    names, sentence, toy_settings, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", ["tensorboard"])
    with pytest.raises(InputError, match=sentence):
        plan_sweep(make_config({**toy_settings, "track": names}), RunDirectory(tmp_path))


def test_trackers_are_those_of_accelerate() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert TRACKERS.keys() == LOGGER_TYPE_TO_CLASS.keys()
    check_trackers([])


@pytest.mark.whole_cells
def test_sweep_is_tracked_cell_by_cell_and_its_law_has_a_run_with_figures(toy_settings, tmp_path) -> None:
    from rich.console import Console

    from reptile_scaling.api import performed
    from reptile_scaling.report import write_report

    run = RunDirectory(tmp_path / "run")
    grid = {"n_tasks_list": [2, 4], "seeds": [0]}
    settings = {**toy_settings, **grid, "track": "tensorboard", "baselines": ["zero_step"]}
    plan = plan_sweep(make_config(settings), run)
    for _ in range(2):  # a second time nothing is left, and nothing is told again
        with (tmp_path / "printed").open("a") as printed, performed(plan, run, Console(file=printed)):
            write_report(run)
        plan = plan_sweep(make_config(settings), run)
    assert "warning" not in (tmp_path / "printed").read_text()
    folders, cells = tmp_path / "run" / "trackers" / "tensorboard", [cell.name for cell in run.cells()]
    assert {path.name for path in folders.iterdir()} == {*cells, law_name(run)}
    for name in cells:
        found = events_of(folders / name)
        assert [step for step, _ in found[LOSS]] == [1, 2, 3, 4] and len(found["final/meta_test_accuracy"]) == 1
    law = events_of(folders / law_name(run))
    constant = run.read_fit()["forms"]["constant"]["a"]
    assert law["law/constant/a"] == [(0, pytest.approx(constant))] and len(law["baseline/zero_step/accuracy"]) == 1
    ((_, image),) = law["scaling_law_plot"] if "scaling_law_plot" in law else law["scaling_law_plot/0"]
    assert (image.height, image.width) == imread(run.plot_path).shape[:2]
