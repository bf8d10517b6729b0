"""L(N, meta-steps), L(N, inner steps), L(N, classes): fitted with intervals, and what each says, in one verdict.

Residuals are of log loss. Rows of one run (a cell's checkpoints) err together, so intervals draw whole runs: a wild
bootstrap over runs with Webb's six-point weights (Cameron, Gelbach & Miller 2008; Webb 2014), its residuals widened for
the parameters they were fitted with. Legend: `R` rows · `B` draws · `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import t as t_distribution

from reptile_scaling.errors import InputError
from reptile_scaling.laws.surface_forms import CLASSES, INNER_STEPS, META_STEPS, SurfaceForm
from reptile_scaling.laws.surface_search import best_fit, polish, surface_values
from reptile_scaling.randomness import stream

N_DRAWS = 200
_WEBB = np.sqrt(np.array([1.5, 1.0, 0.5]))
_SKETCH = 0.05  # root mean square of log residuals beyond which a smooth surface is said to be coarse
# 95 % of draws must agree before a surface claims anything.
_CERTAIN = 0.95

SurfaceVerdict = Literal["more_visits_hurt", "more_visits_help", "tasks_are_worth_steps", "tasks_and_classes",
                         "tasks_only", "classes_only", "not_resolved"]  # fmt: skip


@dataclass(frozen=True)
class SurfaceTable:
    """Rows of (N, z, loss) with the run each belongs to; `z_name` says what z is.

    z is visits of each task at L(N, meta-steps) (meta-steps × meta-batch / N), inner steps, or training classes.
    """

    n_tasks: Float[np.ndarray, " R"]
    z: Float[np.ndarray, " R"]
    loss: Float[np.ndarray, " R"]
    run: tuple[str, ...]
    z_name: str

    def __post_init__(self) -> None:
        """Raises InputError for ragged columns and for values that no logarithm takes (z may be 0)."""
        sizes = {len(column) for column in (self.n_tasks, self.z, self.loss, self.run)}
        if len(sizes) > 1:
            raise InputError(f"columns of {sorted(sizes)} rows: give N, {self.z_name}, loss and run for every row.")
        for name, column in (("N", self.n_tasks), ("loss", self.loss)):
            if not (np.isfinite(column).all() and (column > 0).all()):
                raise InputError(f"{name} = {np.min(column):g} has no logarithm: drop that row.")
        if not (np.isfinite(self.z).all() and (self.z >= 0).all()):
            raise InputError(f"{self.z_name} = {np.min(self.z):g}: give 0 or more.")


@dataclass(frozen=True)
class SurfaceLaw:
    """A fitted surface: parameters with 95 % intervals, draws of them, and one verdict with the numbers behind it.

    `misfit` is the root mean square of log residuals; `answers` are what the surface is asked for, with intervals.
    """

    form: SurfaceForm
    parameters: dict[str, float]
    interval: dict[str, tuple[float, float]]
    draws: Float[np.ndarray, "B P"]
    misfit: float
    verdict: SurfaceVerdict
    sentence: str
    """What it says to people."""
    reasons: tuple[str, ...]
    answers: dict[str, tuple[float, float, float]]
    warnings: tuple[str, ...]

    def predict(
        self, n_tasks: Float[np.ndarray, " M"], z: Float[np.ndarray, " M"]
    ) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
        """Mean loss with the ends of its 95 % interval."""
        best = np.array([self.parameters[name] for name in self.form.parameters])
        low, high = np.percentile(surface_values(self.form, self.draws, n_tasks, z), [2.5, 97.5], axis=0)
        return surface_value(self.form, best, n_tasks, z), low, high

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "form": self.form.name,
            "formula": self.form.formula,
            "parameters": self.parameters,
            "ci95": {name: list(ends) for name, ends in self.interval.items()},
            "misfit": self.misfit,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "reasons": list(self.reasons),
            "answers": {name: {"value": v, "ci95": [low, high]} for name, (v, low, high) in self.answers.items()},
            "warnings": list(self.warnings),
        }


def fit_meta_steps(table: SurfaceTable, *, n_draws: int = N_DRAWS, seed: int = 0) -> SurfaceLaw:
    """L(N, visits): how often N tasks are best visited, and whether more visits hurt there.

    Answers `best_visits_at_<N>` stay within what was measured at that N. The verdict is about the smallest N, where
    repetition is worst.
    """
    best, draws, misfit = _fit_with_draws(META_STEPS, table, n_draws, seed)
    answers, told, shares = {}, {}, {}
    for n in np.unique(table.n_tasks)[::-1].tolist():
        measured = table.z[(table.n_tasks == n) & (table.z > 0)]
        visits = np.geomspace(float(measured.min()), float(measured.max()), 60)
        found = visits[surface_values(META_STEPS, np.vstack([best, draws]), np.full(60, n), visits).argmin(axis=1)]
        answers[f"best_visits_at_{n:g}"] = value, low, high = _with_ends(found)
        shares[n] = float(np.mean(found[1:] < visits[-2]))
        told[n] = (
            f"N = {n:g} is best visited {_plain(value)} times (95 % interval {_plain(low)} to {_plain(high)}, "
            f"of {_plain(visits[0])} to {_plain(visits[-1])} measured)"
        )
    least, most = min(told), max(told)
    hurt = [f"{n:g}" for n in sorted(shares) if shares[n] >= _CERTAIN]
    beyond = f"more visits hurt at N = {', '.join(hurt)}" if hurt else "at no N is it certain that more visits hurt"
    share = shares[least]
    words = f"{told[least]}; in {share:.0%} of draws fewer than the most"
    verdict: SurfaceVerdict = "not_resolved"
    if share >= _CERTAIN:
        verdict = "more_visits_hurt"
    elif share <= 1.0 - _CERTAIN:
        verdict = "more_visits_help"
    sentence = f"{told[least]} and {told[most]}; {beyond}."
    return _law(META_STEPS, table, best, draws, misfit, verdict, sentence, (words,), answers)


def fit_inner_steps(table: SurfaceTable, *, n_draws: int = N_DRAWS, seed: int = 0) -> SurfaceLaw:
    """L(N, inner steps): what N tasks are worth in steps.

    Answer `steps_per_tenfold`: what ten times the tasks multiply inner steps by.
    """
    best, draws, misfit = _fit_with_draws(INNER_STEPS, table, n_draws, seed)
    worth = 10.0 ** np.vstack([best, draws])[:, INNER_STEPS.parameters.index("worth")]
    answers = {"steps_per_tenfold": _with_ends(worth)}
    value, low, high = answers["steps_per_tenfold"]
    words = f"ten times the tasks are worth {value:.3g} times the inner steps (95 % interval {low:.3g} to {high:.3g})"
    verdict: SurfaceVerdict = "tasks_are_worth_steps" if low > 1.0 else "not_resolved"
    whole = float(np.log10(table.n_tasks.max() / table.n_tasks.min()))
    sentence = (
        f"T{words[1:]}; all of N = {table.n_tasks.min():g} to {table.n_tasks.max():g} {value**whole:.3g} times"
        + ("." if low > 1.0 else ": that they are worth any is not resolved.")
    )
    return _law(INNER_STEPS, table, best, draws, misfit, verdict, sentence, (words,), answers)


def fit_classes(table: SurfaceTable, *, n_draws: int = N_DRAWS, seed: int = 0) -> SurfaceLaw:
    """L(N, classes): what tenfold N and tenfold C cut off the loss of the smallest cell measured, as shares of it."""
    best, draws, misfit = _fit_with_draws(CLASSES, table, n_draws, seed)
    corner = np.array([table.n_tasks.min()]), np.array([table.z.min()])
    answers, falls = {}, {}
    for name, factors in (("tasks", (10.0, 1.0)), ("classes", (1.0, 10.0))):
        here, there = (
            surface_values(CLASSES, np.vstack([best, draws]), corner[0] * a, corner[1] * b)[:, 0]
            for a, b in ((1.0, 1.0), factors)
        )
        answers[f"cut_by_tenfold_{name}"] = _with_ends(1.0 - there / here)
        falls[name] = answers[f"cut_by_tenfold_{name}"][1] > 0.01
    words = tuple(
        f"tenfold {name} cut the loss by {100 * answers[f'cut_by_tenfold_{name}'][0]:.1f} % (95 % interval "
        f"{100 * answers[f'cut_by_tenfold_{name}'][1]:.1f} to {100 * answers[f'cut_by_tenfold_{name}'][2]:.1f} %)"
        for name in falls
    )
    table_of_verdicts: dict[tuple[bool, bool], SurfaceVerdict] = {
        (True, True): "tasks_and_classes", (True, False): "tasks_only",
        (False, True): "classes_only", (False, False): "not_resolved",
    }  # fmt: skip
    verdict = table_of_verdicts[falls["tasks"], falls["classes"]]
    sentence = f"From N = {table.n_tasks.min():g} and {table.z.min():g} classes, {'; '.join(words)}."
    return _law(CLASSES, table, best, draws, misfit, verdict, sentence, words, answers)


SURFACE_LAWS: dict[str, Callable[..., SurfaceLaw]] = {
    "meta_steps": fit_meta_steps,
    "inner_steps": fit_inner_steps,
    "classes": fit_classes,
}


def surface_value(
    form: SurfaceForm, parameters: Float[np.ndarray, " P"], n_tasks: Float[np.ndarray, " M"], z: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """The surface at each (N, z)."""
    return np.asarray(surface_values(form, parameters[None], n_tasks, z)[0])


def why_too_few(form: SurfaceForm, table: SurfaceTable) -> str:
    """What a table lacks for a form, and the cure; empty where nothing."""
    n_rows, n_runs, n_parameters = table.loss.size, len(set(table.run)), len(form.parameters)
    if n_rows > n_parameters and n_runs > 2:
        return ""
    return (
        f"{n_rows} rows of {n_runs} runs for {n_parameters} parameters: "
        "give more rows than parameters, and 3 runs or more."
    )


def _fit_with_draws(
    form: SurfaceForm, table: SurfaceTable, n_draws: int, seed: int
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, "B P"], float]:
    """The best parameters, draws of them by the wild bootstrap over runs, and the misfit."""
    names, run = np.unique(np.asarray(table.run), return_inverse=True)
    n_rows, n_parameters = table.loss.size, len(form.parameters)
    if lacking := why_too_few(form, table):
        raise InputError(lacking)
    best = best_fit(form, table.n_tasks, table.z, table.loss)
    fitted = np.log(surface_value(form, best, table.n_tasks, table.z))
    residual = np.log(table.loss) - fitted
    spare = max(names.size - n_parameters, 1)
    # Few runs: Student's factor, or coverage drops; and residuals are smaller than errors by what was fitted to them.
    factor = np.sqrt(n_rows / (n_rows - n_parameters)) * float(t_distribution.ppf(0.975, max(spare, 3))) / 1.96
    signs = stream(seed, "surface", form.name).choice(np.concatenate([_WEBB, -_WEBB]), (n_draws, names.size))
    noisy = fitted + factor * signs[:, run] * residual
    drawn, _ = polish(form, table.n_tasks, table.z, noisy, np.tile(best, (n_draws, 1)))
    return best, drawn, float(np.sqrt(np.mean(residual**2)))


def _plain(number: float) -> str:
    """Three digits, and never a power of ten."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _with_ends(found: Float[np.ndarray, " B1"]) -> tuple[float, float, float]:
    """The estimate (first) with the 2.5 % and 97.5 % points of the draws (the others)."""
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return float(found[0]), float(low), float(high)


def _law(
    form: SurfaceForm,
    table: SurfaceTable,
    best: Float[np.ndarray, " P"],
    draws: Float[np.ndarray, "B P"],
    misfit: float,
    verdict: SurfaceVerdict,
    sentence: str,
    reasons: tuple[str, ...],
    answers: dict[str, tuple[float, float, float]],
) -> SurfaceLaw:
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    ends = {name: (float(low[i]), float(high[i])) for i, name in enumerate(form.parameters)}
    n_runs, warnings = len(set(table.run)), []
    if n_runs < 2 * len(form.parameters):
        warnings.append(f"{n_runs} runs for {len(form.parameters)} parameters: intervals of so few are too narrow")
    if misfit > _SKETCH:
        warnings.append(f"the surface misses rows by {misfit:.0%}: it is a sketch, and intervals know nothing of that")
    values = dict(zip(form.parameters, best.tolist(), strict=True))
    return SurfaceLaw(form, values, ends, draws, misfit, verdict, sentence, reasons, answers, tuple(warnings))
