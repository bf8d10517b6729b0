"""How often the verdict is right on simulated sweeps: `python scripts/law/verdicts.py [sweeps per world] [seed]`.

Every truth of laws/worlds meets even, falling and rising noise, 2 to 5 seeds. Prints a table and writes
results/law/verdicts_seed<seed>.json. About 0.2 s a sweep on one slow core. Rules were chosen while looking at seed 5;
the seeds in docs/law.md were run once, afterwards.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from reptile_scaling.laws import fit_law
from reptile_scaling.laws.worlds import NOISE_TRENDS, TRUTHS, NoiseTrend, Truth, draw_table, draw_world
from reptile_scaling.randomness import stream

SEED = 5
# A verdict that no simple law holds meets every truth with a place in it; alternatives may name the form itself.
MET_BY = {truth: {truth} for truth in TRUTHS} | {"flat_from_50": {"flat"}} | {
    truth: {"broken", "smooth_break", "two_plateaus", "not_a_simple_law"}
    for truth in ("broken", "smooth_break", "two_plateaus")
}  # fmt: skip


def count_verdicts(truth: Truth, noise: NoiseTrend, n_sweeps: int, seed: int, n_bootstrap: int = 60) -> dict[str, Any]:
    """Shares of sweeps of one truth: scaling right, truth found or kept open, verdicts by name, alternatives each."""
    rng = stream(seed, "verdicts", truth, noise)
    verdicts: Counter[str] = Counter()
    right = called = included = open_forms = 0
    for _ in range(n_sweeps):
        world = draw_world(truth, rng, noise)
        verdict = fit_law(draw_table(world, rng), n_bootstrap=n_bootstrap).verdict
        right += verdict.scaling_detected == world.falls
        called += verdict.scaling_detected
        included += bool(MET_BY[truth] & {verdict.form, *verdict.alternatives})
        open_forms += len(verdict.alternatives)
        verdicts[verdict.form] += 1
    return {
        "n_sweeps": n_sweeps,
        "scaling_right": right / n_sweeps,
        "called_scaling": called / n_sweeps,
        "truth_included": included / n_sweeps,
        "alternatives_mean": open_forms / n_sweeps,
        "verdicts": {name: count / n_sweeps for name, count in verdicts.most_common()},
    }


def main(n_sweeps: int, seed: int) -> None:
    begin, results = time.perf_counter(), {}
    for truth in TRUTHS:
        for noise in NOISE_TRENDS:
            r = results[f"{truth}, {noise} noise"] = count_verdicts(truth, noise, n_sweeps, seed)
            verdicts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in r["verdicts"].items())
            print(
                f"| {truth}, {noise} | {100 * r['scaling_right']:.1f} % | {100 * r['truth_included']:.1f} % | "
                f"{r['alternatives_mean']:.2f} | {verdicts} |",
                flush=True,
            )
    means = {key: sum(r[key] for r in results.values()) / len(results) for key in ("scaling_right", "truth_included")}
    print(f"all: {means}, {time.perf_counter() - begin:.0f} s")
    summary = {"seed": seed, **means, "by_world": results}
    Path(f"results/law/verdicts_seed{seed}.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=100, help="per world")
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    given = parser.parse_args()
    main(given.sweeps, given.seed)
