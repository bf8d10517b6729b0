"""Published fits, hit to their published digits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reptile_scaling.errors import InputError
from reptile_scaling.laws import LossTable, fit_floor_by_excess, fit_law, fit_surface
from reptile_scaling.laws.excess import fit_start_and_floor, predict_with_floor, predict_with_start
from reptile_scaling.laws.forms import POWER, evaluate

# Alabdulmohsin et al. 2022, Table 2: extrapolation RMSE of the log loss.
PLAIN = {"6 Enc, 6 Dec": 0.26, "28 Enc, 6 Dec": 0.17, "6 Enc, 28 Dec": 0.23, "Dec-only": 0.25, "TEnc-LSTM": 0.19}
WITH_FLOOR = {"28 Enc, 6 Dec": 0.056, "6 Enc, 28 Dec": 0.053}


def _curve(folder: Path, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = pd.read_csv(folder / "nmt_revisiting_scaling_laws.csv").query("Model == @model")
    fit, beyond = rows[rows.Training == 1], rows[rows.Training == 0]
    parts = [part[column].to_numpy(dtype=float) for part in (fit, beyond) for column in ("Seen Examples", "Loss")]
    return parts[0], parts[1], parts[2], parts[3]


def _log_rmse(predicted: np.ndarray, loss: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(loss)) ** 2)))


def test_chinchilla_surface_is_the_published_optimum(fit_oracles: Path) -> None:
    rows = pd.read_csv(fit_oracles / "chinchilla_figure4.csv").sort_values("loss").iloc[:-5]
    size = rows["Model Size"].to_numpy()
    data = rows["Training FLOP"].to_numpy() / (6 * size)
    surface = fit_surface(np.column_stack([size, data]), rows["loss"].to_numpy())
    assert surface.converged
    assert surface.objective == pytest.approx(0.0010182740, rel=1e-6)
    assert (surface.floor, *surface.exponents) == pytest.approx((1.81724, 0.34731, 0.36718), rel=5e-5)


@pytest.mark.parametrize("model", list(PLAIN))
def test_plain_law_extrapolates_translation_curves_as_published(fit_oracles: Path, model: str) -> None:
    x, y, far, loss = _curve(fit_oracles, model)
    power = fit_law(LossTable(x, y), n_bootstrap=0).candidates["power"]
    assert _log_rmse(evaluate(POWER, power.fits.parameters, far)[0], loss) == pytest.approx(PLAIN[model], abs=0.01)


@pytest.mark.parametrize("model", list(WITH_FLOOR))
def test_law_with_floor_extrapolates_translation_curves_as_published(fit_oracles: Path, model: str) -> None:
    x, y, far, loss = _curve(fit_oracles, model)
    predicted = predict_with_floor(fit_floor_by_excess(x, y), far)
    assert _log_rmse(predicted, loss) == pytest.approx(WITH_FLOOR[model], abs=0.001)


def test_surface_of_two_terms_is_recovered_from_forty_noiseless_rows() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e10, 1e12]), (40, 2)))
    y = 1.7 + 400.0 * x[:, 0] ** -0.34 + 2000.0 * x[:, 1] ** -0.37
    surface = fit_surface(x, y)
    np.testing.assert_allclose((surface.floor, *surface.amplitudes), (1.7, 400.0, 2000.0), rtol=1e-4)
    np.testing.assert_allclose(surface.exponents, (0.34, 0.37), rtol=1e-5)
    np.testing.assert_allclose(surface.predict(x), y, rtol=1e-8)


def test_surface_refuses_fewer_rows_than_parameters() -> None:
    with pytest.raises(InputError, match=r"5 rows for 5 parameters: give more rows than parameters"):
        fit_surface(np.ones((5, 2)), np.ones(5))


def test_law_with_a_start_is_recovered_and_its_curve_is_its_own_inverse() -> None:
    # (L − 0.5) / (4 − L)^0.8 = 6 · x^-0.6: x for each L, so no search is needed to make the data.
    loss = np.linspace(0.8, 3.5, 40)
    x = ((loss - 0.5) / (4.0 - loss) ** 0.8 / 6.0) ** (-1.0 / 0.6)
    fit = fit_start_and_floor(x, loss)
    # The grid knows the floor to a sixtieth of the smallest loss, and starts to 8 %.
    assert fit.floor == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(predict_with_start(fit, x), loss, rtol=0.01)
    with pytest.raises(InputError, match=r"in 5 rows: give 6 rows of positive losses"):
        fit_start_and_floor(x[:5], loss[:5])
