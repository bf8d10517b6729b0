"""Refuses one system call of a sweep of six cells, once, with each error that file systems are known for.

    python scripts/reliability/refused_calls.py [--times 20]

Each time the sweep ends with one sentence (which the command line prints, exit 2) or goes on, nothing else is raised,
and the same sweep started again gives the results of the whole one.
"""

import argparse
import errno
import random
import tempfile
from collections import Counter
from pathlib import Path

from staged.failing_disk import REFUSALS, failing
from staged.tiny_sweep import largest_difference, sweep, tiny_config

from reptile_scaling.config import Config
from reptile_scaling.errors import StorageError
from reptile_scaling.runs.directory import RunDirectory


def refuse(config: Config, whole: RunDirectory, folder: Path, place: int, error: int) -> tuple[str, str, float]:
    """(the call that was refused, what came of it, the largest difference after the same sweep is started again)."""
    with failing(place, error) as disk:
        try:
            sweep(config, folder)
            outcome = "went on"
        except StorageError as refusal:
            assert "\n" not in str(refusal) and str(folder) in str(refusal), refusal
            outcome = "one sentence"
    run = sweep(config, folder)
    return disk.names[place], outcome, largest_difference(run, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="calls refused with each error")
    asked = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        config = tiny_config(Path(name))
        with failing(-1, 0) as counted:
            whole = sweep(config, Path(name, "whole"))
        n = len(counted.names)
        print(f"a sweep of {len(whole.cells())} cells makes {n} calls")
        for error in REFUSALS:
            outcomes, worst, calls = Counter[str](), 0.0, Counter[str]()
            # The lock first: there is one such call, and a sample would miss it.
            # Of the last quarter none: how often a status is written depends on the time a sweep takes.
            for place in [counted.names.index("flock"), *rng.sample(range(n * 3 // 4), asked.times)]:
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    call, outcome, difference = refuse(config, whole, Path(folder, "run"), place, error)
                outcomes[outcome] += 1
                calls[call] += 1
                worst = max(worst, difference)
            said = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
            refused = ", ".join(f"{count} {call}" for call, count in sorted(calls.items()))
            print(f"{errno.errorcode[error]:7} {refused}: {said}; largest difference {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
