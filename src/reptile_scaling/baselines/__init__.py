"""What a meta-learned initialisation must beat, on the same test tasks.

A new baseline is a file here and an entry in BASELINES. All choices are made on validation classes.
"""

import time
from pathlib import Path

import numpy as np

from reptile_scaling.baselines.baseline import Baseline, Scores, Tell, features_only
from reptile_scaling.baselines.fine_tuning import (
    has_curve,
    no_meta,
    no_meta_tuned,
    no_meta_work,
    tuning_work,
    zero_step,
    zero_step_work,
)
from reptile_scaling.baselines.joint import cells_train_otherwise, joint_training, joint_work
from reptile_scaling.baselines.probes import frozen_features, logistic_regression, nearest_mean, regression_work
from reptile_scaling.baselines.prompting import (
    has_next_word,
    in_context,
    in_context_work,
    zero_shot_labels,
    zero_shot_work,
)
from reptile_scaling.learning.evaluation import test_episodes
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.runs.records import BaselineResult

__all__ = ["BASELINES", "Baseline", "Scores", "Tell", "features_only", "frozen_features", "run_baseline"]

# The cheap ones first: a comparison is there early, and what takes minutes comes when all else can be looked at.
BASELINES = {
    "zero_step": Baseline("pretrained, no step", zero_step, zero_step_work, is_rival=False),
    "nearest_mean": Baseline("nearest class mean, frozen features", nearest_mean, features_only),
    "logistic_regression": Baseline("logistic regression, frozen features", logistic_regression, regression_work),
    "no_meta": Baseline("fine-tuning, same inner loop", no_meta, no_meta_work, takes_same_loop=True),
    "no_meta_tuned": Baseline("fine-tuning, tuned rate and steps", no_meta_tuned, tuning_work, has_curve),
    "joint": Baseline(
        "joint training, same inner loop", joint_training, joint_work, cells_train_otherwise, takes_same_loop=True
    ),
    "zero_shot_labels": Baseline(
        "zero-shot: the LM scores label words", zero_shot_labels, zero_shot_work, has_next_word
    ),
    "in_context": Baseline("in-context: support set in the prompt", in_context, in_context_work, has_next_word),
}


def run_baseline(workbench: Workbench, name: str, folder: Path, tell: Tell) -> BaselineResult:
    """One baseline on the shared test tasks; `folder` is its own, `tell` hears how far it is."""
    baseline = BASELINES[name]
    episodes = test_episodes(workbench)
    # The shared activations of the test utterances are not this baseline's cost.
    workbench.engine.remember(np.concatenate([part.ravel() for e in episodes for part in (e.support, e.query)]))
    began = time.perf_counter()
    scores = baseline.measure(workbench, episodes, folder, tell)
    seconds = scores.seconds if scores.seconds is not None else time.perf_counter() - began
    return _means(name, baseline, scores, seconds)


def _means(name: str, baseline: Baseline, scores: Scores, seconds: float) -> BaselineResult:
    """Over the test tasks, of what took so many seconds for all of them."""
    n_tasks = len(scores.accuracy)
    spread = 1 if n_tasks > 1 else 0
    # A rate at which fine-tuning diverges leaves labels to count but no loss to speak of.
    loss = scores.loss if scores.loss is not None and np.isfinite(scores.loss).all() else None
    return BaselineResult(
        name=name,
        label=baseline.label,
        accuracy=float(scores.accuracy.mean()),
        accuracy_std=float(scores.accuracy.std(ddof=spread)),
        loss=float(loss.mean()) if loss is not None else None,
        loss_std=float(loss.std(ddof=spread)) if loss is not None else None,
        seconds_per_task=seconds / n_tasks,
        settings=scores.settings,
        task_accuracies=scores.accuracy.tolist(),
        task_losses=loss.tolist() if loss is not None else None,
        adaptation_curve=scores.curve,
        is_rival=baseline.is_rival,
        takes_same_loop=baseline.takes_same_loop,
        initialisations=scores.by_initialisation,
    )
