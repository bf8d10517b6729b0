"""Cuts the power of a sweep of six cells at every system call that it writes with, and resumes it.

    python scripts/reliability/power_cuts.py            # every call: ten minutes of one core
    python scripts/reliability/power_cuts.py --every 40 --seeds 20

First as the process saw its folder: the call that is cut is not made, and a write is made by half. Then as the disk had
it: what was not flushed is kept or lost by a seed, and content that was not is whole, cut, zeros or nothing. Each time
every file is what it was at some time as a whole, no finished cell is computed again, and the resumed results equal the
whole ones.
"""

import argparse
import hashlib
import random
import tempfile
from pathlib import Path

from staged.recorded_disk import recorded
from staged.tiny_sweep import largest_difference, sweep, tiny_config

from reptile_scaling.config import Config
from reptile_scaling.runs import lease
from reptile_scaling.runs.directory import RunDirectory


class Cuts:
    """One whole sweep with its recording, and what came of cutting it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, tiny_config(folder)
        (folder / "whole").mkdir()
        with recorded(folder / "whole") as self.recording:
            self.whole = sweep(self.config, folder / "whole")
        self.contents = self.recording.contents()
        self.seen: dict[str, float] = {}
        """The difference of a state that was resumed before, by its digest: a flush changes nothing that one sees."""

    def cut(self, n_calls: int, seed: int | None = None) -> float:
        """The largest difference between the whole results and those resumed after so many calls."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            self.recording.after(n_calls, folder, seed)
            self._check_whole(folder)
            state = _digest(folder)
            if state not in self.seen:
                self.seen[state] = resumed(self.config, folder, self.whole)
        return self.seen[state]

    def _check_whole(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            if path.is_file() and not path.name.startswith("."):
                assert path.read_bytes() in self.contents[name], f"{name} is neither the old nor the new one"


def resumed(config: Config, folder: Path, whole: RunDirectory) -> float:
    """Goes on in a folder; the largest difference from the whole results."""
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("final_result.json")}
    run = sweep(config, folder)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished cell was computed again"
    assert not list(folder.rglob("*.part")), "what was cut was not swept up"
    return largest_difference(run, whole)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part"))
    named = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="cut at every so-many-th call")
    parser.add_argument("--seeds", type=int, default=200, help="cuts with unflushed data dropped")
    asked = parser.parse_args()
    lease.SECONDS_WITHOUT_A_BEAT = 0.0  # a lease that was torn is watched before it is taken
    with tempfile.TemporaryDirectory() as name:
        cuts = Cuts(Path(name))
        n = len(cuts.recording.calls)
        names = [call.name for call in cuts.recording.calls]
        counts = ", ".join(f"{names.count(kind)} {kind}" for kind in sorted(set(names)))
        print(f"a sweep of {len(cuts.whole.cells())} cells makes {n} calls: {counts}", flush=True)
        worst = max(cuts.cut(k) for k in range(0, n + 1, asked.every))
        tried = len(range(0, n + 1, asked.every))
        print(f"cut at {tried} of them ({len(cuts.seen)} folders differ): largest difference {worst:.1e}", flush=True)
        rng = random.Random(0)
        before = len(cuts.seen)
        worst = max((cuts.cut(rng.randrange(n), seed) for seed in range(asked.seeds)), default=0.0)
        print(
            f"cut at {asked.seeds} random calls with unflushed data dropped ({len(cuts.seen) - before} more folders): "
            f"largest difference {worst:.1e}"
        )


if __name__ == "__main__":
    main()
