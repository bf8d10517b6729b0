"""Who extrapolates published curves best? `python scripts/law/extrapolation.py [folder of curves] [--lcdb FILE]`.

Every form is fitted to the first part of a curve and asked for the rest; printed is the root mean square error of log
loss, the measure of Alabdulmohsin et al. 2022 (arXiv:2209.06640). `M2` and `M4` are that paper's forms; "the verdict's
curve" is what ours draws. The curves:

- its five translation curves, with the paper's own training part;
- the least loss at each compute of Hoffmann et al. 2022 (arXiv:2203.15556, figure 4 as digitised by Besiroglu et al.
  2024): a quarter of a decade each, the last decade left out;
- learning curves of the Learning Curve Database (Mohr et al. 2022): error rate over training examples, five outer
  seeds, drawn from all learners and data sets; the last factor of four left out. FILE is `lcdb/database-accuracy.csv`
  of the package's source archive: `pip download --no-deps --no-binary :all: lcdb==0.1.0`, then unpack it.

Writes results/law/extrapolation.json. Seconds, and with the database some minutes on one slow core.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from reptile_scaling.laws import LossTable, fit_floor_by_excess, fit_law
from reptile_scaling.laws.excess import fit_start_and_floor, predict_with_floor, predict_with_start
from reptile_scaling.laws.forms import FORMS, evaluate
from reptile_scaling.laws.open_forms import chosen_candidate
from reptile_scaling.randomness import stream

SEED, N_CURVES = 2718, 150
FEWEST_ANCHORS, LEFT_OUT = 11, 4
"""Of a curve of the database, whose anchors lie a factor √2 apart."""
Errors = dict[str, float | str]


def errors_of(table: LossTable, far: Float[np.ndarray, " F"], loss: Float[np.ndarray, " F"]) -> Errors:
    """Extrapolation error of every form on one curve, and the verdict's word."""

    def error(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((np.log(np.maximum(predicted, 1e-9)) - np.log(loss)) ** 2)))

    law = fit_law(table, n_bootstrap=100)
    x, y = law.levels.x, law.levels.mean
    found: Errors = {}
    for name in FORMS:
        if name in law.candidates:
            found[name] = error(evaluate(FORMS[name], law.candidates[name].fits.parameters, far)[0])
    found["floor, fitted to the excess (M2)"] = error(predict_with_floor(fit_floor_by_excess(x, y), far))
    found["start and floor (M4)"] = error(predict_with_start(fit_start_and_floor(x, y), far))
    found["the verdict's curve"] = error(law.predict(far).value)
    chosen = chosen_candidate(law.candidates, law.verdict).form.name
    found["verdict"] = law.verdict.form + ("" if chosen == law.verdict.form else f" ({chosen})")
    return found


def translation(folder: Path) -> Iterator[tuple[str, Errors]]:
    rows = pd.read_csv(folder / "nmt_revisiting_scaling_laws.csv")
    for model, curve in rows.groupby("Model", sort=False):
        fit, beyond = (curve[curve.Training == part] for part in (1, 0))
        x, y, far, loss = (
            part[column].to_numpy(dtype=float) for part in (fit, beyond) for column in ("Seen Examples", "Loss")
        )
        yield f"translation, {model}", errors_of(LossTable(x, y), far, loss)


def least_loss_by_compute(folder: Path) -> Iterator[tuple[str, Errors]]:
    rows = pd.read_csv(folder / "chinchilla_figure4.csv")
    quarter = np.floor(4 * np.log10(rows["Training FLOP"])) / 4
    best = rows.loc[rows.groupby(quarter)["loss"].idxmin()].sort_values("Training FLOP")
    flop, loss = best["Training FLOP"].to_numpy(dtype=float), best["loss"].to_numpy(dtype=float)
    inside = flop <= flop[-1] / 10
    yield "Chinchilla, by compute", errors_of(LossTable(flop[inside], loss[inside]), flop[~inside], loss[~inside])


def of_database(file: Path) -> Iterator[tuple[str, Errors]]:
    """Curves without an error of 0 anywhere, which has no logarithm; N_CURVES of them."""
    columns = ["openmlid", "learner", "size_train", "outer_seed", "score_test"]
    rows = pd.read_csv(file, usecols=columns)
    error = 1.0 - rows.groupby(columns[:-1])["score_test"].mean()  # over inner seeds
    table = error.unstack("outer_seed").dropna()
    whole = [
        name
        for name, curve in table.groupby(level=["openmlid", "learner"])
        if len(curve) >= FEWEST_ANCHORS and curve.to_numpy().min() > 0
    ]
    print(f"{len(whole)} whole curves in the database")
    for place in sorted(stream(SEED, "extrapolation").choice(len(whole), N_CURVES, replace=False).tolist()):
        data_set, learner = whole[place]
        curve = table.loc[(data_set, learner)].sort_index()
        near, beyond = curve.iloc[:-LEFT_OUT], curve.iloc[-LEFT_OUT:]
        seeds = tuple(str(seed) for _ in range(len(near)) for seed in curve.columns)
        x = np.repeat(near.index.to_numpy(dtype=float), len(curve.columns))
        fit = LossTable(x, near.to_numpy(dtype=float).ravel(), seeds)
        yield f"{learner} on {data_set}", errors_of(fit, beyond.index.to_numpy(float), beyond.to_numpy(float).mean(1))


def summary(curves: dict[str, Errors]) -> dict[str, dict[str, float]]:
    """Median and ninth decile of each form's error, and how often it is the least (the verdict's curve apart)."""
    frame = pd.DataFrame(curves).T.drop(columns="verdict").astype(float)
    least = frame.drop(columns="the verdict's curve").idxmin(axis=1)
    return {
        name: {
            "median": round(float(frame[name].median()), 4),
            "ninth_decile": round(float(frame[name].quantile(0.9)), 4),
            "least": round(float((least == name).mean()), 3),
            "curves": int(frame[name].notna().sum()),
        }
        for name in frame.columns
    }


def main(folder: Path, database: Path | None) -> None:
    found = {"curves": dict([*translation(folder), *least_loss_by_compute(folder)])}
    names = list(dict.fromkeys(name for row in found["curves"].values() for name in row))
    print("| curve | " + " | ".join(names) + " |")
    for model, row in found["curves"].items():
        cells = [f"{v:.3f}" if isinstance(v := row.get(name, "–"), float) else str(v) for name in names]
        print(f"| {model} | " + " | ".join(cells) + " |")
    results: dict[str, object] = dict(found)
    if database is not None:
        begin = time.perf_counter()
        curves = dict(of_database(database))
        verdicts = pd.Series([row["verdict"] for row in curves.values()]).value_counts().to_dict()
        results["database"] = {"n_curves": len(curves), "seed": SEED, "forms": summary(curves), "verdicts": verdicts}
        for name, of_form in summary(curves).items():
            shares = f"{of_form['median']:.3f} | {of_form['ninth_decile']:.3f} | {100 * of_form['least']:.0f} %"
            print(f"| {name} | {shares} | {of_form['curves']} |")
        print(verdicts, f"{time.perf_counter() - begin:.0f} s")
    Path("results/law/extrapolation.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path(__file__).parents[3] / "shared" / "data" / "fit_oracles",
        help="folder of the published tables",
    )
    parser.add_argument("--lcdb", type=Path, help="database-accuracy.csv of the package lcdb")
    given = parser.parse_args()
    main(given.folder, given.lcdb)
