"""The tests that a verdict stands on: trend, one form against another, the largest x left out, misfit.

Legend: `K` levels · `G` exponents of the noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from reptile_scaling.laws.candidates import NO_NOISE, Candidate
from reptile_scaling.laws.levels import Levels

# A form is ruled out when another beats it by this F test; four rivals at ½ % keep the true form in 98 %.
RULED_OUT_LEVEL = 0.005
# Seeds can be so precise that any formula is rejected; a misfit below 1 % of the loss is still a usable law.
TOLERATED_MISFIT = 0.01


@dataclass(frozen=True)
class Trend:
    """Slope over log x in standard errors, positive where the loss falls, with p of a one-sided test each way.

    `total_change_interval` is the 95 % interval of the change from first to last x, as a share of the loss.
    """

    t: float
    df: int
    p_falling: float
    p_rising: float
    total_change_interval: tuple[float, float]


def measure_trend(candidates: dict[str, Candidate], levels: Levels) -> Trend | None:
    """Weighted slope over log x with the noise of the likeliest form, so that curvature is not taken for noise.

    What the seeds leave open about the noise's own exponent is averaged over: a mixture of t tests.
    """
    identified = [c for c in candidates.values() if c.identified and c.df > 0]
    if not identified or "log_linear" not in candidates:
        return None
    noise = min(identified, key=lambda c: (c.information, c.variance))
    relative = levels.noise == "relative"
    y, log_x, share = np.log(levels.mean) if relative else levels.mean, np.log(levels.x), levels.weights
    centred = log_x - float(share @ log_x) / share.sum()
    pull = share * centred / float(share @ centred**2)
    slope = -float(pull @ y)
    errors, chances = _slope_errors(levels, pull, max(noise.variance, NO_NOISE * levels.loss_size))
    half = _half_width(errors, chances, noise.df)
    unit = 1.0 if relative else abs(float(share @ y) / share.sum()) or 1.0
    low, high = (-float(np.ptp(log_x)) * value / unit for value in (slope + half, slope - half))
    change = (float(np.expm1(low)), float(np.expm1(min(high, 50.0)))) if relative else (low, high)
    p_falling = float(chances @ t_distribution.sf(slope / errors, noise.df))
    p_rising = float(chances @ t_distribution.cdf(slope / errors, noise.df))
    return Trend(slope / float(np.sqrt(chances @ errors**2)), noise.df, p_falling, p_rising, change)


def beats(challenger: Candidate, form: Candidate, levels: Levels, level: float = RULED_OUT_LEVEL) -> bool:
    """Whether `challenger` fits better than `form` by an F test at `level`, for its extra parameters (one at least)."""
    extra = max(challenger.form.n_searched - form.form.n_searched, 1)
    df = levels.pooled_df + levels.x.size - challenger.form.n_parameters
    if df <= 0:
        return False
    rss, better = float(form.fits.rss[0]), float(challenger.fits.rss[0])
    squares = levels.pooled_variance * levels.pooled_df + better
    variance = max(squares / df, NO_NOISE * levels.loss_size)
    return bool((rss - better) / extra > variance * float(f_distribution.ppf(1.0 - level, extra, df)))


def holdout_p(candidate: Candidate, variance: float, df: int) -> float:
    """p of the largest level under the form fitted to the rest: Chow's test of one new observation; 1 where unknown."""
    if candidate.holdout_rss is None or df <= 0:
        return 1.0
    return float(f_distribution.sf(candidate.holdout_rss / max(variance, 1e-300), 1, df))


def misfits_seeds(candidate: Candidate, levels: Levels) -> bool:
    """Whether the level means lie further from the curve than seeds explain (F test), and further than is tolerable."""
    df = levels.x.size - candidate.form.n_parameters
    if df <= 0 or levels.pooled_df == 0 or candidate.misfit < TOLERATED_MISFIT:
        return False
    ratio = float(candidate.fits.rss[0]) / df / max(levels.pooled_variance, NO_NOISE * levels.loss_size)
    return bool(ratio > f_distribution.ppf(1.0 - RULED_OUT_LEVEL, df, levels.pooled_df))


def _slope_errors(
    levels: Levels, pull: Float[np.ndarray, " K"], variance: float
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Standard error of Σ pull·mean at every exponent of the noise that the seeds leave open, and its probability."""
    spread, inflation, chances = levels.noise_law.spreads(levels.x)
    return np.sqrt(variance * inflation * ((pull * spread) ** 2 / levels.n_seeds).sum(axis=1)), chances


def _half_width(errors: Float[np.ndarray, " G"], chances: Float[np.ndarray, " G"], df: int) -> float:
    """Half of the central 95 % interval of a mixture of t distributions, by halving the bracket."""
    low, high = 0.0, float(t_distribution.ppf(0.9999, df) * errors.max())
    for _ in range(40):
        middle = (low + high) / 2
        beyond = float(chances @ t_distribution.sf(middle / errors, df))
        low, high = (middle, high) if beyond > 0.025 else (low, middle)
    return high
