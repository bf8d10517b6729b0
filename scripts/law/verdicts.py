"""How often the verdict is right on simulated sweeps: `python scripts/law/verdicts.py [sweeps per truth] [seed]`.

Prints a table and writes results/law/verdicts.json (with another seed, results/law/verdicts_seed<seed>.json).
About 0.15 s a sweep on one slow core.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from reptile_scaling.laws import fit_law
from reptile_scaling.laws.worlds import TRUTHS, Truth, draw_table, draw_world
from reptile_scaling.randomness import stream

SEED = 4
# A broken truth is met by the verdict that says no simple law holds.
MET_BY = {truth: {truth} for truth in TRUTHS} | {"broken": {"broken", "not_a_simple_law"}}


def count_verdicts(truth: Truth, n_sweeps: int, n_bootstrap: int = 200, seed: int = SEED) -> dict[str, Any]:
    """Shares of sweeps of one truth: scaling right, truth found or kept open, verdicts by name, alternatives each."""
    rng = stream(seed, "verdicts", truth)
    verdicts: Counter[str] = Counter()
    right = called = included = open_forms = 0
    for _ in range(n_sweeps):
        world = draw_world(truth, rng)
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
    begin = time.perf_counter()
    results = {truth: count_verdicts(truth, n_sweeps, seed=seed) for truth in TRUTHS}
    for truth, r in results.items():
        verdicts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in r["verdicts"].items())
        print(
            f"{truth:12} scaling right {r['scaling_right']:.3f}  truth included {r['truth_included']:.3f}  "
            f"alternatives {r['alternatives_mean']:.2f}  | {verdicts}"
        )
    overall = sum(r["scaling_right"] for r in results.values()) / len(results)
    included = sum(r["truth_included"] for r in results.values()) / len(results)
    print(
        f"all truths: scaling right {overall:.3f}, truth included {included:.3f}, {time.perf_counter() - begin:.0f} s"
    )
    summary = {"seed": seed, "scaling_right": overall, "truth_included": included, "by_truth": results}
    Path(f"results/law/verdicts{'' if seed == SEED else f'_seed{seed}'}.json").write_text(
        json.dumps(summary, indent=1) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=int, nargs="?", default=250, help="per truth")
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    given = parser.parse_args()
    main(given.sweeps, given.seed)
