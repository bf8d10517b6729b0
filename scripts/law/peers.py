"""Ours, the package `simple-scaling-laws` and two published ways of fitting on the same simulated sweeps.

    python3.12 -m venv PEERS && PEERS/bin/pip install simple-scaling-laws
    python scripts/law/peers.py PEERS/bin/python [sweeps per truth]
    python scripts/law/peers.py            the table of docs/law.md from results/law/peers.json

The package is no dependency: it runs in its own environment, reads the tables on standard input and answers on
standard output (`--peer` below). Writes results/law/peers.json and prints its table.

The package fits one form, a power law with a floor, and gives no verdict. For it, "scaling" is read as generously as
we can: its 95 % interval of the mean loss at the largest N lies wholly below that at the smallest.

Two more ways are re-implemented here in their one-variable form E + A * N^-alpha, for neither package can be had from a
registry:

- `grid`: as in vpnls (Czech et al. 2026, arXiv:2603.22339): exponents on a grid of 0.01 within 0.01 to 1, E and A by
  linear least squares, then a bounded search of the exponent alone. It has no intervals; "scaling" is A > 0 with no
  bound hit, which is the status it reports.
- `starts`: the setting in which vpnls's own script runs apple/ml-scalefit: Huber loss with delta = 0.001, ten random
  starts within bounds, L-BFGS-B, and percentile intervals over rows drawn again; "scaling" as for the package above.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar

RESULTS = Path("results/law/peers.json")
SEED = 2718
N_DRAWS = 400  # for both sides
N_STARTS, N_RESAMPLED, DELTA = 10, 100, 1e-3
EXPONENTS = (0.01, 1.0)


def answer_as_peer() -> None:
    """Runs inside the peer's environment: a fit per table of standard input."""
    import polars
    import simple_scaling_laws as peer

    warnings.simplefilter("ignore")
    answers = []
    for table in json.load(sys.stdin):
        frame = polars.DataFrame(
            {
                "training_run_id": [f"run{i}" for i in range(len(table["x"]))],
                "test_set_id": ["all"] * len(table["x"]),
                "dataset_size__n_tasks": table["x"],
                "test_loss__loss": table["y"],
            }
        )
        begin = time.perf_counter()
        try:
            model = peer.fit(frame, law="separable-power", n_draws=N_DRAWS, seed=0)
            ends = polars.DataFrame(
                {"point_id": ["a", "b"], "dataset_size__n_tasks": [min(table["x"]), max(table["x"])]}
            )
            predicted = model.predict(ends)
            falls = predicted["test_loss__loss__q975"][1] < predicted["test_loss__loss__q025"][0]
            beta = list(model.conf_int("test_loss__loss")["beta"])
            point = float(model.params("test_loss__loss")["beta"])
            notes = [note.code for note in model.warnings]
            answers.append({"scaling": bool(falls), "beta": beta, "point": point, "notes": notes})
        except Exception as error:  # a refusal is an answer too; what it refuses is part of the comparison
            answers.append({"scaling": False, "beta": None, "notes": [f"error: {type(error).__name__}"]})
        answers[-1]["seconds"] = time.perf_counter() - begin
    print(json.dumps({"version": peer.__version__, "answers": answers}))


def grid_answer(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Variable projection over a grid of exponents, polished."""
    begin = time.perf_counter()

    def project(alpha: float) -> tuple[float, np.ndarray]:
        design = np.column_stack([np.ones(x.size), x**-alpha])
        found = np.linalg.lstsq(design, y, rcond=None)[0]
        return float(np.sum((y - design @ found) ** 2)), found

    grid = np.arange(EXPONENTS[0], EXPONENTS[1] + 0.005, 0.01)
    start = grid[np.argmin([project(alpha)[0] for alpha in grid])]
    near = (max(EXPONENTS[0], start - 0.01), min(EXPONENTS[1], start + 0.01))
    alpha = float(minimize_scalar(lambda a: project(float(a))[0], bounds=near, method="bounded").x)
    is_inside = EXPONENTS[0] + 1e-4 < alpha < EXPONENTS[1] - 1e-4
    floor, amplitude = project(alpha)[1]
    return {
        "scaling": bool(amplitude > 0 and floor > 0 and is_inside),
        "point": alpha,
        "seconds": time.perf_counter() - begin,
    }


def starts_answer(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Bounded fits of Huber loss from random starts; each table of rows drawn again starts at the best fit."""
    begin = time.perf_counter()
    bounds = [(0.0, 2 * float(y.max())), (0.0, 10 * float(y.max())), EXPONENTS]

    def best(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        log_x = np.log(x[rows])

        def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
            term = np.exp(-p[2] * log_x)
            miss = p[0] + p[1] * term - y[rows]
            size, pull = np.abs(miss), np.clip(miss, -DELTA, DELTA)
            value = np.where(size <= DELTA, miss**2 / 2, DELTA * (size - DELTA / 2))
            slopes = np.array([np.ones_like(term), term, -p[1] * log_x * term])
            return float(value.mean()), (slopes * pull).mean(axis=1)

        fits = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
        return np.asarray(min(fits, key=lambda fit: fit.fun).x)

    low, high = np.array(bounds).T
    point = best(np.arange(x.size), rng.uniform(low, high, (N_STARTS, 3)))
    drawn = np.array([best(rng.integers(0, x.size, x.size), point[None]) for _ in range(N_RESAMPLED)])
    ends = drawn[:, :1] + drawn[:, 1:2] * np.array([x.min(), x.max()]) ** -drawn[:, 2:]
    return {
        "scaling": bool(np.percentile(ends[:, 1], 97.5) < np.percentile(ends[:, 0], 2.5)),
        "beta": np.percentile(drawn[:, 2], [2.5, 97.5]).tolist(),
        "point": float(point[2]),
        "seconds": time.perf_counter() - begin,
    }


def our_answer(table: Any) -> dict[str, Any]:
    """The same questions to our law; β is the verdict's own, or none where the verdict's form has none."""
    from reptile_scaling.laws import fit_law

    begin = time.perf_counter()
    law = fit_law(table, n_bootstrap=N_DRAWS)
    seconds = time.perf_counter() - begin
    chosen = law.candidates.get(law.verdict.form)
    beta = law.exponent_interval()
    floor = law.candidates["power_floor"].interval.get("beta") if "power_floor" in law.candidates else None
    return {
        "scaling": law.verdict.scaling_detected,
        "verdict": law.verdict.form,
        "beta": None if beta is None else list(beta),
        "floor_beta": None if floor is None else list(floor),
        "point": None if chosen is None else chosen.parameters.get("beta"),
        "seconds": seconds,
    }


def summarise(answers: list[dict[str, Any]], key: str, true_beta: list[float | None], falls: bool) -> dict[str, Any]:
    """Share of right claims, coverage and width of β where both truth and answer have one, seconds a fit."""
    pairs = [(a[key], b) for a, b in zip(answers, true_beta, strict=True) if a.get(key) is not None and b is not None]
    points = [(a["point"], b) for a, b in zip(answers, true_beta, strict=True) if a.get("point") is not None]
    misses = [abs(point - b) for point, b in points if b is not None]
    hits = [low <= b <= high for (low, high), b in pairs]
    widths = sorted(high - low for (low, high), _ in pairs)
    return {
        "scaling_right": sum(a["scaling"] == falls for a in answers) / len(answers),
        "beta_given": len(pairs) / len(answers),
        "beta_coverage": sum(hits) / len(hits) if hits else None,
        "beta_median_width": widths[len(widths) // 2] if widths else None,
        "beta_median_error": sorted(misses)[len(misses) // 2] if misses else None,
        "median_seconds": sorted(a["seconds"] for a in answers)[len(answers) // 2],
    }


def main(peer_python: str, n_sweeps: int) -> None:
    from reptile_scaling.laws.worlds import TRUTHS, NoiseTrend, Truth, draw_table, draw_world
    from reptile_scaling.randomness import stream

    results: dict[str, Any] = {}
    uneven: list[Truth] = ["power", "power_floor", "flat", "two_plateaus"]
    kinds: list[tuple[Truth, NoiseTrend]] = [(truth, "even") for truth in TRUTHS]
    for truth, noise in [*kinds, *((truth, "falling") for truth in uneven)]:
        rng = stream(SEED, "peers", truth, noise)
        worlds = [draw_world(truth, rng, noise) for _ in range(n_sweeps)]
        tables = [draw_table(world, rng) for world in worlds]
        betas = [w.parameters[1] if w.truth in ("power", "power_floor", "rising") else None for w in worlds]
        text = json.dumps([{"x": t.x.tolist(), "y": t.loss.tolist()} for t in tables])
        run = subprocess.run([peer_python, __file__, "--peer"], input=text, capture_output=True, text=True, check=True)
        peer = json.loads(run.stdout)
        ours = [our_answer(table) for table in tables]
        falls = worlds[0].falls
        results[f"{truth}, {noise}"] = {
            "ours": summarise(ours, "beta", betas, falls),
            "ours_floor_form": summarise(ours, "floor_beta", betas, falls),
            f"simple-scaling-laws {peer['version']}": summarise(peer["answers"], "beta", betas, falls),
            "grid": summarise([grid_answer(t.x, t.loss) for t in tables], "beta", betas, falls),
            "starts": summarise([starts_answer(t.x, t.loss, rng) for t in tables], "beta", betas, falls),
            "peer_notes": _shares(peer["answers"]),
        }
        for who, row in results[f"{truth}, {noise}"].items():
            print(f"{truth:12} {noise:8} {who:28} {row}", flush=True)
    RESULTS.write_text(json.dumps({"seed": SEED, "n_sweeps": n_sweeps, "by_truth": results}, indent=1) + "\n")


def markdown(found: dict[str, Any]) -> list[str]:
    """A row for each world, an entry for each way of fitting; then the sums and the medians over worlds."""
    worlds, n = found["by_truth"], found["n_sweeps"]
    peer = next(name for name in next(iter(worlds.values())) if name.startswith("simple"))
    ways = {"ours": "ours", "our floor": "ours_floor_form", "package": peer, "grid": "grid", "starts": "starts"}
    scaling = [name for name in ways if name != "our floor"]
    lines = [
        f"| truth, noise ({n} sweeps each) | scaling claimed rightly: {' / '.join(scaling)} | "
        f"β covered (median width): {' / '.join(name for name in ways if name != 'grid')} | "
        f"median seconds: {' / '.join(scaling)} |",
        "|---|---|---|---|",
    ]
    for world, row in worlds.items():
        right = " / ".join(f"{100 * row[ways[name]]['scaling_right']:.0f} %" for name in scaling)
        covered = " / ".join(_covered(row[ways[name]]) for name in ways if name != "grid")
        seconds = " / ".join(f"{row[ways[name]]['median_seconds']:.2f}" for name in scaling)
        lines.append(f"| {world} | {right} | {covered} | {seconds} |")
    total = n * len(worlds)
    claims = {name: sum(row[ways[name]]["scaling_right"] for row in worlds.values()) * n for name in scaling}
    times = {name: sorted(row[ways[name]]["median_seconds"] for row in worlds.values()) for name in scaling}
    lines.append("")
    lines.append(
        f"Claimed rightly, of {total} sweeps: "
        + ", ".join(f"{name} {claims[name]:.0f}" for name in scaling)
        + "; the middle world's median seconds: "
        + ", ".join(f"{name} {times[name][len(worlds) // 2]:.2f}" for name in scaling)
        + "."
    )
    falling = [row for world, row in worlds.items() if not world.startswith("rising")]
    held = {name: [row[ways[name]] for row in falling if row[ways[name]]["beta_given"]] for name in ways}
    lines.append(
        "Of sweeps whose truth falls with a β, its interval held it in "
        + ", ".join(
            f"{sum(round(n * of['beta_given'] * of['beta_coverage']) for of in rows)} of "
            f"{sum(round(n * of['beta_given']) for of in rows)} ({name})"
            for name, rows in held.items()
            if rows
        )
        + "."
    )
    return lines


def _covered(of: dict[str, Any]) -> str:
    return f"{100 * of['beta_coverage']:.0f} % ({of['beta_median_width']:.3g})" if of["beta_given"] else "–"


def _shares(answers: list[dict[str, Any]]) -> dict[str, float]:
    codes = sorted({code for a in answers for code in a["notes"]})
    return {code: round(sum(code in a["notes"] for a in answers) / len(answers), 3) for code in codes}


if __name__ == "__main__":
    if sys.argv[1:] == ["--peer"]:
        answer_as_peer()
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "peer_python", metavar="PEERS/bin/python", nargs="?", help="the interpreter that has the package"
    )
    parser.add_argument("sweeps", type=int, nargs="?", default=100, help="per truth")
    given = parser.parse_args()
    if given.peer_python:
        main(given.peer_python, given.sweeps)
    print("\n".join(markdown(json.loads(RESULTS.read_text()))))
