"""What a run has not measured yet."""

from reptile_scaling.runs.directory import RunDirectory


def missing_sentence(run: RunDirectory) -> str:
    """Which cells and baselines a run's figures are without; empty where nothing is missing.

    What failed is not missing: the page says that, with the reason, elsewhere.
    """
    left = [
        cell for cell in run.cells() if not run.cell(cell).is_done and run.cell(cell).read_status().state != "failed"
    ]
    parts = []
    if left:
        levels = list(dict.fromkeys(cell.level_name for cell in left))
        parts.append(f"{len(left)} of {len(run.cells())} cells ({', '.join(levels)})")
    baselines = [name for name in run.read_baselines_left() if name not in run.read_baseline_failures()]
    if baselines:
        parts.append(f"the baselines {', '.join(baselines)}")
    return f"Not here yet: {' and '.join(parts)}." if parts else ""


def has_first_curve(run: RunDirectory) -> bool:
    """Whether every level has a seed that is done, or some level has all: there is something to look at."""
    is_done: dict[str, list[bool]] = {}
    for cell in run.cells():
        is_done.setdefault(cell.level_name, []).append(run.cell(cell).is_done)
    return any(all(seeds) for seeds in is_done.values()) or all(any(seeds) for seeds in is_done.values())
