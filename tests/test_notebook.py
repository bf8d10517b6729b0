"""The notebook: its setting is the demo's, and every cell of it runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reptile_scaling.config import load_config, make_config
from reptile_scaling.runs.directory import RunDirectory

pytestmark = pytest.mark.endurance

NOTEBOOK = Path(__file__).parents[1] / "reptile_scaling_law_experiments.ipynb"
MISSION_KEYS = {
    "model_name", "n_way", "k_support", "k_query", "inner_lr", "meta_lr", "k_inner", "meta_batch_size",
    "inner_batch_size", "num_meta_steps", "eval_interval", "num_meta_test_tasks", "devices", "load_in_8bit", "lora_r",
    "lora_alpha", "lora_dropout", "max_length", "seed_meta_test", "seed_train_base",
}  # fmt: skip
# In a process of its own: the warnings of Jupyter's machinery are not ours to turn into errors.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True)
client.execute(cwd=sys.argv[2])
nbformat.write(notebook, sys.argv[1])
"""


def read_cells(path: Path = NOTEBOOK) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["cells"]


def parameters() -> dict[str, Any]:
    (cell,) = (cell for cell in read_cells() if "parameters" in cell["metadata"].get("tags", []))
    exec("".join(cell["source"]), names := {})  # noqa: S102
    return names


def test_notebook_is_committed_without_outputs_and_with_ids() -> None:
    cells = read_cells()
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


def test_config_has_the_mission_keys_and_is_the_demo() -> None:
    names = parameters()
    assert names["CONFIG"].keys() >= MISSION_KEYS
    grid = {"n_tasks_list": names["N_TASKS_LIST"], "seeds": names["SEEDS"]}
    # Equal to the file, so that the notebook goes on with what `make demo` has computed.
    assert make_config({**names["CONFIG"], **grid}) == load_config("demo")


@pytest.fixture(scope="module")
def executed(toy_settings, model_folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder it ran in and its cells, with a small setting put after its own."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(model_folder, folder / "other_model")
    config = {key: value for key, value in toy_settings.items() if key not in ("n_tasks_list", "seeds")}
    names = {"CONFIG": config, "N_TASKS_LIST": [1, 4, 16], "MORE_TASKS": [2], "OTHER_MODEL": "./other_model"}
    source = [f"{name} = {value!r}\n" for name, value in names.items()]
    small = {
        "cell_type": "code",
        "id": "small",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": source,
    }
    notebook = json.loads(NOTEBOOK.read_text())
    place = next(i for i, cell in enumerate(notebook["cells"]) if cell["id"] == "parameters")
    notebook["cells"].insert(place + 1, small)
    path = folder / NOTEBOOK.name
    path.write_text(json.dumps(notebook))
    done = subprocess.run([sys.executable, "-c", EXECUTE, path, folder], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, read_cells(path)


def test_every_cell_runs(executed) -> None:
    _, cells = executed
    raised = [
        f"{cell['id']}: {output['ename']}: {output['evalue']}"
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    assert not raised
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")


def test_sweep_shows_its_progress(executed) -> None:
    _, cells = executed
    (sweep,) = (cell for cell in cells if cell["id"] == "sweep")
    shown = "".join("".join(output.get("text", "")) for output in sweep["outputs"])
    assert "6 cells, 0 done" in shown and "cells done" in shown


def test_tables_and_figures_are_shown(executed) -> None:
    _, cells = executed
    shown = {cell["id"]: {kind for o in cell.get("outputs", []) for kind in o.get("data", {})} for cell in cells}
    for table in ("results", "baselines", "predict", "other"):
        assert "text/html" in shown[table], table
    for figure in ("figure-law", "figure-baselines", "own-accuracy", "own-learning"):
        assert "image/png" in shown[figure], figure


def test_grid_grew_in_the_same_folder(executed) -> None:
    folder, _ = executed
    cells = RunDirectory(folder / "experiments_scaling_law").cells()
    assert sorted({cell.n_tasks for cell in cells}) == [1, 2, 4, 16]
    assert len(RunDirectory(folder / "experiments_other_model").results()) == 2
