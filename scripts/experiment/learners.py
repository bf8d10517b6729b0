"""Prototypical networks over LoRA against classifiers on frozen features, on the splits of Banking77.

    python scripts/experiment/learners.py OUT data_dir=PATH/TO/banking77 [--splits 01 02] [key=value …]

For each split and number of shots: trains one cell, keeps the meta-step whose validation accuracy is best, and reads
the test tasks without an inner step: under the learned prototypes, and by nearest mean and logistic regression on the
learned features, beside the same on frozen features. Settings are chosen on validation classes; the rival that
differences are taken to is the one that is best on the test tasks, in the rival's favour. Run again, it goes on where
it was, and where all is there it takes seconds. Writes OUT/NAME.csv (queries right of each task's classes),
OUT/NAME.json (what was chosen), OUT/learners.json (the table) and prints the table.
"""

import argparse
import csv
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reptile_scaling.baselines.probes import PENALTIES, Classifier, frozen_features, nearest_mean_logits, regression
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.data.episodes import Episode, training_pool, visiting_order
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import test_episodes, validation_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.meta_state import MetaState, fresh_state
from reptile_scaling.learning.meta_step import Visit, meta_step
from reptile_scaling.learning.shared_features import SharedFeatures
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.adapters import HEAD_WEIGHT, Adapters
from reptile_scaling.model.heads import HEADS, logits
from reptile_scaling.presets import preset_path
from reptile_scaling.randomness import stream

CONFIG = preset_path("learners_banking77")
SPLITS, SHOTS = ("01", "02", "03", "04", "05"), (1, 5)
LEARNED, FROZEN = "protonet", "frozen"
N_RESAMPLED = 2000


def cosine_logits(episode: Episode, support: Tensor, query: Tensor) -> Tensor:
    """Cosines to the class means of directions: what head `cosine` gives before its scale."""
    head_from = HEADS["cosine"].from_support
    assert head_from is not None
    head = head_from(support[None], slots(episode.support, support.device), len(episode.support))
    n_way, width = head[HEAD_WEIGHT].shape[1:]
    own = HEADS["cosine"].own_parameters(n_way, width, support.device)
    return logits(Adapters(head | {name: one[None] for name, one in own.items()}), query[None])[0]


def classifiers() -> dict[str, Classifier]:
    """By name; those of one kind differ in a setting that validation classes choose."""
    found: dict[str, Classifier] = {"prototypes": cosine_logits, "nearest_mean": nearest_mean_logits}
    return found | {f"logistic_regression {penalty:g}": regression(penalty) for penalty in PENALTIES}


def queries_right(episodes: Sequence[Episode], features: SharedFeatures, classify: Classifier) -> np.ndarray:
    """`[tasks, n_way]`: how many of a class's queries are given its label."""
    rows = []
    for episode in episodes:
        support, query = features.of(episode.support), features.of(episode.query)
        right = classify(episode, support, query).argmax(-1) == slots(episode.query, query.device)
        rows.append(right.view(episode.query.shape).sum(1).numpy())
    return np.stack(rows)


def trained(workbench: Workbench, score: Callable[[Workbench, MetaState], float]) -> tuple[MetaState, dict[str, float]]:
    """One cell; the state at the evaluation whose score on validation tasks is best, and the score at each."""
    config, corpus = workbench.config, workbench.corpus
    n_tasks, seed = config.n_tasks_list[0], config.seeds[0]
    pool = training_pool(corpus.dataset, corpus.split, config, seed)
    order = visiting_order(n_tasks, config.num_meta_steps * config.meta_batch_size, seed, f"ntasks_{n_tasks}")
    state = fresh_state(workbench, seed)
    best, best_accuracy, seen = state, score(workbench, state), {}
    seen["0"] = best_accuracy
    while state.meta_step < config.num_meta_steps:
        places = range(state.meta_step * config.meta_batch_size, (state.meta_step + 1) * config.meta_batch_size)
        visits = [
            Visit(pool.episode(int(order[i]), i // n_tasks), stream(seed, "inner_loop", f"ntasks_{n_tasks}", i))
            for i in places
        ]
        (outcome,) = meta_step(workbench, [state], [visits])
        assert outcome.state is not None, f"diverged in meta-step {state.meta_step + 1}"
        state = outcome.state
        if state.meta_step % config.eval_interval == 0:
            accuracy = seen[str(state.meta_step)] = score(workbench, state)
            if accuracy > best_accuracy:
                best, best_accuracy = state, accuracy
    return best, seen


def validation_accuracy(workbench: Workbench, state: MetaState) -> float:
    """Of prototypes, without an inner step."""
    episodes = validation_episodes(workbench)
    features = frozen_features(workbench, episodes, state.initialisation)
    return float(queries_right(episodes, features, cosine_logits).mean()) / workbench.config.k_query


def measure(config: Config, out: Path, name: str) -> None:
    """Trains and tests one cell, and every classifier on both kinds of features."""
    began = time.perf_counter()
    workbench = open_workbench(config, open_corpus(config), "cpu")
    state, seen = trained(workbench, validation_accuracy)
    seconds = time.perf_counter() - began
    validation, test = validation_episodes(workbench), test_episodes(workbench)
    chosen: dict[str, str] = {}
    columns: dict[str, np.ndarray] = {}
    for kind, theta in ((FROZEN, None), (LEARNED, state.initialisation)):
        on_validation = frozen_features(workbench, validation, theta)
        on_test = frozen_features(workbench, test, theta)
        accuracies: dict[str, dict[str, float]] = {}
        for method, classify in classifiers().items():
            right = float(queries_right(validation, on_validation, classify).mean()) / config.k_query
            accuracies.setdefault(method.split()[0], {})[method] = right
        for family, tried in accuracies.items():
            best = max(tried, key=lambda method: tried[method])
            chosen[f"{kind} {family}"] = f"{best}: {tried[best]:.4f} on validation tasks"
            columns[f"{kind} {family}"] = queries_right(test, on_test, classifiers()[best])
    write_queries(out / f"{name}.csv", workbench, test, columns)
    facts = {
        "class_split": config.class_split, "k_support": config.k_support, "n_tasks": config.n_tasks_list[0],
        "chosen_meta_step": state.meta_step, "validation_accuracy_by_meta_step": seen, "chosen": chosen,
        "training_seconds": round(seconds, 1),
    }  # fmt: skip
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    line = {method: round(100 * float(right.mean()) / config.k_query, 1) for method, right in columns.items()}
    print(f"{name}: {line}, meta-step {state.meta_step} of {seen}, {seconds:.0f} s", file=sys.stderr, flush=True)


def measure_apart(config: Config, out: Path, name: str) -> None:
    """`measure` in a process of its own: the heap, which keeps what is freed, grows with every new shape of a batch,
    from 0.8 to 2.0 GB over 60 episodes and to 2.1 over 60 more of another split, though nothing is held."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned, initializer=torch.set_num_threads, initargs=(1,)) as one:
        one.submit(measure, config, out, name).result()


def write_queries(
    path: Path, workbench: Workbench, episodes: Sequence[Episode], columns: dict[str, np.ndarray]
) -> None:
    """A row for each class of each task: how many of its queries each method gets right."""
    names = workbench.corpus.dataset.class_names
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["task", "class", *columns])
        for task, episode in enumerate(episodes):
            for slot, c in enumerate(episode.classes):
                rows.writerow([task, names[c], *(int(right[task, slot]) for right in columns.values())])


def read_queries(paths: Sequence[Path], k_query: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Of the rows of all files: the number of its task, of its class, and each method's accuracy in points."""
    tasks, classes = [], []
    columns: dict[str, list[float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                tasks.append((path.name, row.pop("task")))
                classes.append(row.pop("class"))
                for method, right in row.items():
                    columns.setdefault(method, []).append(100 * int(right) / k_query)
    numbers = [np.unique(np.array([str(key) for key in keys]), return_inverse=True)[1] for keys in (tasks, classes)]
    return numbers[0], numbers[1], {method: np.array(points) for method, points in columns.items()}


def interval(points: np.ndarray, tasks: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """95 % of the mean, test classes and tasks resampled together: a class drawn twice counts twice in all its tasks
    (a crossed bootstrap; Owen 2007, arXiv:0711.2421, says that it errs on the wide side)."""
    rng, means = stream(0, "class_aware_bootstrap"), []
    for _ in range(N_RESAMPLED):
        drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for n in (tasks.max() + 1, classes.max() + 1)]
        weights = drawn[0][tasks] * drawn[1][classes]
        means.append(float((weights * points).sum() / weights.sum()))
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(low), 2), round(float(high), 2)


def summary(out: Path, k_query: int) -> list[dict[str, object]]:
    """The table: each method over all splits that were measured, against the best rival on frozen features."""
    rows: list[dict[str, object]] = []
    groups = {f"{shots} shots": [out / f"split_{s}_shots_{shots}.csv" for s in SPLITS] for shots in SHOTS}
    for group, paths in groups.items():
        if not (found := [path for path in paths if path.is_file()]):
            continue
        tasks, classes, columns = read_queries(found, k_query)
        rivals = {method: points for method, points in columns.items() if method.startswith(FROZEN)}
        rival = max(rivals, key=lambda method: float(rivals[method].mean()))
        for method, points in columns.items():
            low, high = interval(points - rivals[rival], tasks, classes)
            rows.append(
                {
                    "group": group, "splits": len(found), "method": method, "accuracy": round(float(points.mean()), 2),
                    "ci95": interval(points, tasks, classes), "rival": rival,
                    "beyond_rival": round(float((points - rivals[rival]).mean()), 2), "beyond_ci95": (low, high),
                }
            )  # fmt: skip
    return rows


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The table for people, in points of accuracy."""
    yield "| | splits | method | accuracy | beyond the best on frozen features |"
    yield "|---|---|---|---|---|"
    for row in rows:
        (low, high), beyond = row["beyond_ci95"], row["beyond_rival"]
        gain = f"{beyond:+.1f} ({low:+.1f} to {high:+.1f})" if row["method"] != row["rival"] else ""
        where = row["group"].removesuffix("s") if row["group"].startswith("1 ") else row["group"]
        yield f"| {where} | {row['splits']} | {row['method'].replace('_', ' ')} | {row['accuracy']:.1f} % | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for the tables")
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    parser.add_argument("--splits", nargs="*", default=SPLITS, help="numbers of the published splits")
    arguments = parser.parse_args()
    out: Path = arguments.out
    try:
        base = load_config(CONFIG, tuple(arguments.settings))
        jobs = {
            f"split_{split}_shots_{shots}": {"class_split": f"protaugment-{split}", "k_support": shots}
            for shots in SHOTS
            for split in arguments.splits
        }
        out.mkdir(parents=True, exist_ok=True)
        for name, settings in jobs.items():
            if not (out / f"{name}.json").is_file():
                measure_apart(make_config({**base.model_dump(), **settings}), out, name)
    except InputError as error:
        parser.error(str(error))
    rows = summary(out, base.k_query)
    (out / "learners.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(*lines(rows), sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
