"""Changes one random byte of every kind of file that a run writes, 200 times each, and counts how often it is noticed.

    python scripts/reliability/flipped_bytes.py [--times 200]

Noticed means: the reader that a command would use raises one sentence with the file's name in it; of a checkpoint, that
the one before it is taken; of a converted model or a part of the prefix cache, that it is made again.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from staged.tiny_sweep import sweep, tiny_config

from reptile_scaling.analysis.law_of_run import read_losses
from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.model.peft_io import load_adapter, load_moments, read_facts
from reptile_scaling.model.prefix_store import PrefixStore
from reptile_scaling.report import write_report
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.seals import SUMS
from reptile_scaling.storage import is_whole, publish

CELL = Cell(4, 0)


@dataclass(frozen=True)
class Kind:
    """A kind of file: where one lies, and how it is read."""

    path: Path
    read: Callable[[], object]


def sealed_run(folder: Path) -> RunDirectory:
    """A finished run with a report, whose cells keep the moments of the inner Adam, and a converted model beside it."""
    config = tiny_config(folder)
    settings = config.model_dump(mode="json") | {"inner_optimizer": "adam", "keep_second_moments": True}
    run = sweep(Config(**settings), folder / "run")
    write_report(run)
    shutil.copytree(folder / "model", folder / "aside")
    publish(folder / "aside", folder / "converted")
    return run


def kinds_of(run: RunDirectory) -> dict[str, Kind]:
    """Every kind by its name."""
    cell, cpu = run.cell(CELL), torch.device("cpu")
    prefixes = PrefixStore(run.path.parent / "prefixes")
    activations_PD = torch.arange(40.0).view(5, 8)
    prefixes.write([1, 2], [2, 3], activations_PD)
    (part,) = prefixes.folder.iterdir()
    adapter, converted = cell.adapter_folder, run.path.parent / "converted"
    tables = {
        "train_stats": cell.read_train_stats, "eval_stats": cell.read_eval_stats,
    }  # fmt: skip

    def newest_is_read() -> None:
        if [c.meta_step for c in cell.read_checkpoints()] != [4, 2]:
            raise InputError("checkpoint.safetensors is passed over for the one before it")

    def is_kept() -> None:
        if not is_whole(converted):
            raise InputError("model.safetensors is to be made again")

    def is_taken() -> None:
        found = list(prefixes.read({1, 2}))
        if not (found and torch.equal(found[0][1], activations_PD)):
            raise InputError(f"{part.name} is to be computed again")

    return {
        "prefix cache": Kind(part, is_taken),
        "checkpoint": Kind(cell.path / "checkpoint.safetensors", newest_is_read),
        "adapter": Kind(adapter / "adapter_model.safetensors", lambda: load_adapter(adapter, cpu)),
        "head": Kind(adapter / "head.safetensors", lambda: load_adapter(adapter, cpu)),
        "moments": Kind(adapter / "second_moments.safetensors", lambda: load_moments(adapter, cpu)),
        "facts": Kind(adapter / "adaptation.json", lambda: read_facts(adapter)),
        "digests": Kind(adapter / SUMS, lambda: read_facts(adapter)),
        "converted model": Kind(converted / "model.safetensors", is_kept),
        "pool": Kind(run.path / "task_pools" / "test.jsonl", lambda: run.read_pool("test")),
        "result": Kind(cell.path / "final_result.json", cell.read_result),
        "test tasks": Kind(cell.path / "test_tasks.csv", cell.read_test_tasks),
        "confusions": Kind(cell.path / "test_confusions.csv", cell.read_confusions),
        "curve": Kind(cell.path / "adaptation_curve.csv", cell.read_adaptation_curve),
        **{name: Kind(cell.path / f"{CELL.name}_{name}.csv", read) for name, read in tables.items()},
        "experiment": Kind(run.path / "experiment.json", run.experiment),
        "baseline": Kind(run.path / "baselines" / "no_meta.json", run.read_baselines),
        "results table": Kind(
            run.path / "scaling_law_results.csv",
            lambda: read_losses(run.path / "scaling_law_results.csv", "n_tasks", "meta_test_loss", None),
        ),
    }


def notices(kind: Kind, rng: random.Random) -> bool:
    """Whether one changed byte is noticed and the file named; the file is as it was afterwards."""
    whole = kind.path.read_bytes()
    place = rng.randrange(len(whole))
    value = rng.choice([value for value in range(256) if value != whole[place]])
    kind.path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    try:
        kind.read()
    except InputError as error:
        return kind.path.name in str(error)
    finally:
        kind.path.write_bytes(whole)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="bytes changed in each kind, one at a time")
    asked = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        for title, kind in kinds_of(sealed_run(Path(name))).items():
            kind.read()
            noticed = sum(notices(kind, rng) for _ in range(asked.times))
            print(f"{title:16} {kind.path.stat().st_size:7} bytes: {noticed} of {asked.times} noticed and named")


if __name__ == "__main__":
    main()
