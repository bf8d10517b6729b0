"""An accelerator on a machine that has none: same figures as on the CPU, no waits, and launches that do not grow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reptile_scaling.bench.launches import LAYERS, count_launches

pytestmark = pytest.mark.endurance


@pytest.fixture(scope="module")
def launches() -> list[dict[str, Any]]:
    return count_launches()["rows"]


def test_adaptation_equals_that_on_the_cpu_and_never_waits() -> None:
    program = Path(__file__).with_name("pretend_adaptation.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # an operation over two devices raises there
    for row in json.loads(done.stdout):
        # Adam divides by the size of a gradient, so a sign near zero may differ: its steps are 1e-3.
        assert row["difference"] < (1e-6 if row["work"][1] == "sgd" else 1e-3), row
        assert row["waits"] == {} and row["fall_of_loss"] > 1e-3, row


@pytest.mark.parametrize("layers", [LAYERS, 1])
def test_launches_of_an_inner_step_do_not_grow_with_tasks_or_cells(launches: list[dict[str, Any]], layers: int) -> None:
    rows = {(r["tasks_per_cell"], r["cells"]): r for r in launches if r["adapted_layers"] == layers}
    per_step = {work: row["launches_per_inner_step"] for work, row in rows.items()}
    assert per_step[16, 1] <= 1.2 * per_step[1, 1]
    assert per_step[4, 16] <= 1.2 * per_step[4, 1]
    assert all(row["waits_per_inner_step"] == row["copies_per_inner_step"] == 0 for row in rows.values())
