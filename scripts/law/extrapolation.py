"""Who extrapolates published curves best? `python scripts/law/extrapolation.py [folder of the curves]`, seconds.

Five translation curves (Alabdulmohsin et al. 2022, arXiv:2209.06640): every form is fitted to their training part and
asked for the rest; printed is the root mean square error of log loss, the paper's own measure. `M4` is the paper's form
with a start. Ours in the last column is what the verdict draws. Writes results/law/extrapolation.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from reptile_scaling.laws import LossTable, fit_floor_by_excess, fit_law
from reptile_scaling.laws.excess import fit_start_and_floor, predict_with_floor, predict_with_start
from reptile_scaling.laws.forms import FORMS, evaluate
from reptile_scaling.laws.prediction import chosen_candidate


def errors_of(curve: pd.DataFrame) -> dict[str, float | str]:
    """Extrapolation error of every form on one curve, and the verdict's word."""
    fit, beyond = (curve[curve.Training == part] for part in (1, 0))
    x, y = fit["Seen Examples"].to_numpy(dtype=float), fit["Loss"].to_numpy(dtype=float)
    far, loss = beyond["Seen Examples"].to_numpy(dtype=float), beyond["Loss"].to_numpy(dtype=float)

    def error(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((np.log(np.maximum(predicted, 1e-9)) - np.log(loss)) ** 2)))

    law = fit_law(LossTable(x, y), n_bootstrap=100)
    found: dict[str, float | str] = {}
    for name in FORMS:
        if name in law.candidates and name != "constant":
            found[name] = error(evaluate(FORMS[name], law.candidates[name].fits.parameters, far)[0])
    found["floor, fitted to the excess (M2)"] = error(predict_with_floor(fit_floor_by_excess(x, y), far))
    found["start and floor (M4)"] = error(predict_with_start(fit_start_and_floor(x, y), far))
    found["the verdict's curve"] = error(law.predict(far).value)
    found["verdict"] = f"{law.verdict.form} ({chosen_candidate(law.candidates, law.verdict).form.name})"
    return found


def main(folder: Path) -> None:
    rows = pd.read_csv(folder / "nmt_revisiting_scaling_laws.csv")
    results = {str(model): errors_of(curve) for model, curve in rows.groupby("Model", sort=False)}
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    print("| curve | " + " | ".join(names) + " |")
    for model, row in results.items():
        cells = [f"{v:.3f}" if isinstance(v := row.get(name, "–"), float) else str(v) for name in names]
        print(f"| {model} | " + " | ".join(cells) + " |")
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
    main(parser.parse_args().folder)
