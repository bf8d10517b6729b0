"""Fine-tuning from the pretrained model: what the inner loop does without meta-training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from reptile_scaling.baselines.baseline import Scores, StepsTold, Tell, features_only, mean_points, mean_scores
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.budget import Start, budget_work
from reptile_scaling.learning.curve import Curve, measure_curve
from reptile_scaling.learning.evaluation import evaluate, read_along, test_loop, work_of_evaluations
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation
from reptile_scaling.runs.records import TaskReading
from reptile_scaling.storage import write_rows

Choice = TypeVar("Choice", int, float | None)


def zero_step(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """The pretrained model before any step: chance, or the slots leak, but for a head that knows the classes' words."""
    loop = replace(test_loop(workbench.config), steps=0)
    figures = evaluate(workbench.engine, fresh_initialisation(workbench, 0), episodes, loop)
    return Scores(figures.zero_step_accuracy, None, {})


def no_meta(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """The cells' own inner loop from the pretrained model, from as many initialisations as there are seeds."""
    loop, seeds = test_loop(workbench.config), workbench.config.seeds
    told, read = StepsTold(tell, len(seeds), len(episodes) * loop.steps), []
    for seed in seeds:
        theta = fresh_initialisation(workbench, seed)
        read.append(read_along(workbench.engine, theta, episodes, loop, [loop.steps], told=told)[loop.steps])
        told.finish()
    settings = {"inner_lr": loop.learning_rate, "inner_steps": loop.steps, "initialisations": len(read)}
    return mean_scores(read, settings)


def no_meta_tuned(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """Fine-tuning with rate and steps chosen on validation tasks as every cell's are, from as many initialisations as
    there are seeds. Its curve over inner steps is what meta-training is compared with at equal steps."""
    seeds = workbench.config.seeds
    told = StepsTold(tell, len(seeds), round(budget_work(workbench.config).inner_steps))
    curves = [_curve_of(workbench, seed, folder, told) for seed in seeds]
    best = [curve.budget.best_steps for curve in curves]
    rates = [curve.budget.rates.get(steps) for curve, steps in zip(curves, best, strict=True)]
    settings = {"inner_lr": _alone(rates), "inner_steps": _alone(best), "initialisations": len(curves)}
    read = [curve.by_steps[steps] for curve, steps in zip(curves, best, strict=True)]
    return replace(mean_scores(read, settings), curve=mean_points([curve.points for curve in curves]))


def _curve_of(workbench: Workbench, seed: int, folder: Path, told: StepsTold) -> Curve:
    """From one initialisation; its readings are kept in the baseline's folder, as a cell's are in its own."""
    curve = measure_curve(workbench, Start(fresh_initialisation(workbench, seed)), told)
    told.finish()
    write_rows(folder / f"seed_{seed}_curve_tasks.csv", TaskReading, curve.readings)
    return curve


def _alone(choices: Sequence[Choice]) -> Choice | list[Choice]:
    """What all initialisations chose, or each one's own."""
    return choices[0] if len(set(choices)) == 1 else list(choices)


def zero_step_work(config: Config) -> Work:
    return features_only(config)


def no_meta_work(config: Config) -> Work:
    one = work_of_evaluations(config, tests=1)
    return sum([one] * (len(config.seeds) - 1), one)


def tuning_work(config: Config) -> Work:
    """A budget for each initialisation."""
    one = budget_work(config)
    return sum([one] * (len(config.seeds) - 1), one)


def has_curve(config: Config) -> bool:
    """Tuning needs numbers of steps to choose among."""
    return bool(config.curve_steps)
