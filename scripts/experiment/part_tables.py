"""Cells of a run ↔ one table for all of them, so that a part of the experiment is a handful of files.

    python scripts/experiment/part_tables.py RESULTS RUNS

Unpacks every part of RESULTS into a run folder below RUNS, which `reptile-scaling fit` and `reptile-scaling report`
read. Values go as text, so that nothing is rounded on the way.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

MAIN = "banking77_smollm2"
RESULTS_TABLE = "final_results.csv"
# Table of all cells → the file of one; `{cell}` is its folder's name.
TABLES = {
    "eval_stats.csv": "{cell}_eval_stats.csv",
    "test_tasks.csv": "test_tasks.csv",
    "adaptation_curves.csv": "adaptation_curve.csv",
    "curve_tasks.csv": "curve_tasks.csv",
    "test_confusions.csv": "test_confusions.csv",
}
KEPT = ("experiment.json", "baselines")
# The test and validation tasks of all parts are those of the main one.
POOLS = ("test.jsonl", "validation.jsonl")
KEPT_OF_MAIN = ("task_pools", "scaling_law_plot.png", "baseline_comparison.png")
# Training pools are what the seeds make again; joint training's own folder is a cell's.
LEFT_OUT = shutil.ignore_patterns("joint", "train_*.jsonl")


def pack(run: Path, part: Path) -> None:
    """Writes the finished cells of a run folder as tables with a first column `cell`; baselines as they are."""
    part.mkdir(parents=True, exist_ok=True)
    cells = sorted(file.parent for file in run.glob("*/final_result.json"))
    _write(part / RESULTS_TABLE, _result_rows(cells))
    for table, name in TABLES.items():
        if rows := list(_stacked_rows(cells, name)):
            _write(part / table, rows)
    for name in (*KEPT, *(KEPT_OF_MAIN if part.name == MAIN else ())):
        if (run / name).is_dir():
            shutil.copytree(run / name, part / name, ignore=LEFT_OUT, dirs_exist_ok=True)
        elif (run / name).exists():
            shutil.copy(run / name, part / name)
    _forget_the_machine(part / "experiment.json")


def _forget_the_machine(experiment: Path) -> None:
    """Data are called by the name of their folder: where that lay is no part of an experiment, and no other one."""
    fields = json.loads(experiment.read_text())
    if data_dir := fields["config"]["data_dir"]:
        fields["config"]["data_dir"] = Path(data_dir).name
    fields.pop("sha256", None)
    experiment.write_text(json.dumps(fields, indent=2) + "\n")


def unpack(part: Path, run: Path) -> Path:
    """The run folder that `pack` made the tables from, as far as laws, standing and figures need it."""
    run.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (part / name).is_dir():
            shutil.copytree(part / name, run / name, dirs_exist_ok=True)
        elif (part / name).exists():
            shutil.copy(part / name, run / name)
    (run / "task_pools").mkdir(exist_ok=True)
    for pool in POOLS:
        shutil.copy(part.parent / MAIN / "task_pools" / pool, run / "task_pools" / pool)
    for table, name in TABLES.items():
        if (part / table).is_file():
            for cell, rows in _rows_by_cell(part / table).items():
                _write(run / cell / name.format(cell=cell), rows)
    header, *rows = _read(part / RESULTS_TABLE)
    for cell, *values in rows:
        fields = dict(zip(header[1:], map(_value, values), strict=True))
        (run / cell / "final_result.json").write_text(json.dumps(fields, indent=2) + "\n")
    return run


def unpack_all(results: Path, runs: Path) -> None:
    """Every part below `results` as a run folder below `runs`."""
    for table in sorted(results.glob(f"*/{RESULTS_TABLE}")):
        unpack(table.parent, runs / table.parent.name)


def _result_rows(cells: list[Path]) -> Iterator[list[str]]:
    for number, cell in enumerate(cells):
        fields = json.loads((cell / "final_result.json").read_text())
        fields.pop("sha256", None)  # of the file, not of the table that it goes into
        if number == 0:
            yield ["cell", *fields]
        yield [cell.name, *("" if v is None else v if isinstance(v, str) else json.dumps(v) for v in fields.values())]


def _stacked_rows(cells: list[Path], name: str) -> Iterator[list[str]]:
    files = [(cell.name, cell / name.format(cell=cell.name)) for cell in cells]
    for number, (cell, rows) in enumerate((cell, _read(file)) for cell, file in files if file.is_file()):
        if number == 0:
            yield ["cell", *rows[0]]
        # A cell is named in its first row alone: files stay under the limit of a repository's.
        yield from ([cell if place == 0 else "", *row] for place, row in enumerate(rows[1:]))


def _rows_by_cell(table: Path) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    header, *rows = _read(table)
    current = ""
    for cell, *row in rows:
        current = cell or current
        found.setdefault(current, [header[1:]]).append(row)
    return found


def _value(text: str) -> object:
    """A number where it reads as one, None for nothing, else the text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _read(file: Path) -> list[list[str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def _write(file: Path, rows: Iterator[list[str]] | list[list[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the repository's results/")
    parser.add_argument("runs", metavar="RUNS", type=Path, help="where the run folders go")
    arguments = parser.parse_args()
    if not (arguments.results / MAIN).is_dir():
        parser.error(f"{str(arguments.results)!r} holds no folder {MAIN!r}: give the repository's results/")
    unpack_all(arguments.results, arguments.runs)


if __name__ == "__main__":
    main()
