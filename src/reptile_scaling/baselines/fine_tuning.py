"""Fine-tuning from the pretrained model: what the inner loop does without meta-training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reptile_scaling.baselines.baseline import Scores, mean_loss
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.learning.evaluation import READINGS_PER_TASK, curve_work, evaluate, test_loop, validation_episodes
from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation

# Multiples of the configured inner loop that the tuned baseline may choose from.
TUNING_RATES = (0.5, 1.0, 2.0, 4.0)
TUNING_STEPS = (1, 4)


def zero_step(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """The pretrained model before any step: chance, or the slots leak, but for a head that knows the classes' words."""
    loop = replace(test_loop(workbench.config), steps=1)
    figures = evaluate(workbench.engine, fresh_initialisation(workbench, 0), episodes, loop)
    return Scores(figures.zero_step_accuracy, None, {})


def no_meta(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """The cells' own inner loop from the pretrained model."""
    return _fine_tuned(workbench, episodes, test_loop(workbench.config))


def no_meta_tuned(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """Fine-tuning from the pretrained model with rate and steps chosen by loss on the validation tasks."""
    own = test_loop(workbench.config)
    base = own.steps or workbench.config.k_inner
    choices = [
        replace(own, steps=base * steps, learning_rate=own.learning_rate * rate)
        for steps in TUNING_STEPS
        for rate in TUNING_RATES
    ]
    validation = validation_episodes(workbench)
    losses = [mean_loss(_fine_tuned(workbench, validation, choice)) for choice in choices]
    best = min(range(len(choices)), key=lambda i: losses[i])
    return _fine_tuned(workbench, episodes, choices[best])


def _fine_tuned(workbench: Workbench, episodes: Sequence[Episode], loop: InnerLoop) -> Scores:
    figures = evaluate(workbench.engine, fresh_initialisation(workbench, 0), episodes, loop)
    return Scores(figures.accuracy, figures.loss, {"inner_lr": loop.learning_rate, "inner_steps": loop.steps})


def zero_step_work(config: Config) -> Work:
    return fine_tuning_work(config.num_meta_test_tasks, steps=1)


def no_meta_work(config: Config) -> Work:
    """With the adaptation curve."""
    return fine_tuning_work(config.num_meta_test_tasks, config.test_steps) + curve_work(config)


def tuning_work(config: Config) -> Work:
    """Every choice on the validation tasks, and the longest on the test tasks."""
    steps = config.test_steps or config.k_inner
    tried = Work(
        inner_steps=len(TUNING_RATES) * sum(TUNING_STEPS) * steps * config.num_validation_tasks,
        readings=len(TUNING_RATES) * len(TUNING_STEPS) * READINGS_PER_TASK * config.num_validation_tasks,
    )
    return tried + fine_tuning_work(config.num_meta_test_tasks, max(TUNING_STEPS) * steps)


def fine_tuning_work(n_tasks: int, steps: int) -> Work:
    """Adapting so many tasks, and reading them before and after."""
    return Work(inner_steps=n_tasks * steps, readings=n_tasks * READINGS_PER_TASK)
