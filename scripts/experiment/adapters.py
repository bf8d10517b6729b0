"""The labeller of `adapt` beside SetFit and classifiers on frozen features: MiniLM, the same test tasks.

    python scripts/experiment/adapters.py OUT banking77=FOLDER clinc150=FOLDER [--tasks N_1SHOT N_5SHOT] [--names]
    python scripts/experiment/adapters.py results/adapters       the table of what is there, in seconds

For each data set, on its first published split: one protonet start over the training classes, by the configuration of
learners.py at 5 shots, then on each test task, at 1 and at 5 shots,
  nearest mean         of frozen features
  logistic regression  on frozen features, its penalty chosen on validation tasks
  SetFit               the package, at its own settings: one epoch of oversampled pairs, then logistic regression
  prototypes           of the start's features, no step taken
  adapt                what the command does from that start: steps chosen by leaving support utterances out
The first three know no other labelled class. With --names each class's name is one more support utterance, of all five
and of the start's training tasks. SetFit (Tunstall et al. 2022, arXiv:2209.11055) comes as
`pip install setfit==1.2.0`, into an environment of its own that also has this package.

Seconds are of processor time on one core, for adapting alone. Megabytes are what a labeller adds to the base that all
share; SetFit's is a base of its own. Run again, it goes on where it was. Writes queries right of each task's classes,
what was chosen and what it cost, OUT/adapters.json with the table, and prints it.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from learners import CONFIG, cosine_logits, interval, queries_right, read_queries, trained, validation_accuracy
from torch import Tensor

from reptile_scaling.baselines.probes import PENALTIES, Classifier, frozen_features, nearest_mean_logits, regression
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import test_episodes, test_loop, validation_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.workbench import Workbench, open_corpus, open_workbench
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.loading import source_of
from reptile_scaling.use.held_out import hold_out
from reptile_scaling.use.support_set import SupportSet

SHOTS = (1, 5)
COMMON: dict[str, Any] = {
    "class_split": "protaugment-01", "k_support": 5, "num_validation_tasks": 20, "eval_interval": 30,
}  # fmt: skip
RIVAL, REGRESSION = "SetFit", "logistic regression"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Answer:
    """A labeller's guess of each query, class by class, and what it took."""

    guesses: np.ndarray
    seconds: float
    megabytes: float
    steps: int | None = None


def by_features(workbench: Workbench, classify: Classifier, theta: Adapters | None) -> Callable[[Episode], Answer]:
    """A classifier on features that no task adapts; reading the support set counts, reading the queries does not."""
    kept = sum(tensor.nbytes for tensor in theta.tensors.values()) if theta else 0
    engine = workbench.engine
    adapters = theta.repeated(1) if theta else None

    @torch.no_grad()
    def features(utterances: np.ndarray) -> Tensor:
        return engine.features(engine.prepare([utterances.ravel()]), adapters)

    def answer(episode: Episode) -> Answer:
        query = features(episode.query)
        began = time.process_time()
        support = features(episode.support)
        guesses = classify(episode, support, query).argmax(-1).numpy()
        rows = len(episode.support) * workbench.engine.backbone.width * 4
        return Answer(guesses, time.process_time() - began, (kept + rows) / MEGABYTE)

    return answer


def by_adapting(workbench: Workbench, theta: Adapters) -> Callable[[Episode], Answer]:
    """What `adapt` does, on a model that is open already."""
    engine, config = workbench.engine, workbench.config
    kept = sum(tensor.nbytes for tensor in theta.tensors.values())

    def answer(episode: Episode) -> Answer:
        began = time.process_time()
        slot_of = np.full(len(engine.token_ids), -1)
        slot_of[episode.support.ravel()] = slots(episode.support, torch.device("cpu")).numpy()
        start = starting_points(engine, theta, [episode.classes], config.head)
        given, names = np.split(episode.support, [config.k_support], axis=1)
        support = SupportSet(engine, start, slot_of, given.ravel(), names=names.ravel())
        loop = test_loop(config)
        held_out = hold_out(support, loop, None)
        loop = replace(loop, steps=held_out.steps if held_out else loop.steps)
        adapted = support.adapt(support.whole, loop).adapters
        seconds = time.process_time() - began
        return Answer(support.scores(adapted, episode.query.ravel()).argmax(-1), seconds, kept / MEGABYTE, loop.steps)

    return answer


def by_setfit(workbench: Workbench) -> Callable[[Episode], Answer]:
    """The package on the same weights, at its own settings."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    folder, _ = source_of(workbench.config)
    texts = workbench.corpus.dataset.texts_with_names

    def answer(episode: Episode) -> Answer:
        body = SentenceTransformer(folder, device="cpu")
        rows = {
            "text": [texts[u] for u in episode.support.ravel().tolist()],
            "label": slots(episode.support, torch.device("cpu")).tolist(),
        }
        began = time.process_time()
        model = SetFitModel(model_body=body, model_head=LogisticRegression())
        with tempfile.TemporaryDirectory() as aside:
            settings = TrainingArguments(
                output_dir=aside, report_to="none", save_strategy="no", show_progress_bar=False, seed=0
            )
            with redirect_stdout(sys.stderr):
                Trainer(model=model, args=settings, train_dataset=Dataset.from_dict(rows)).train()
        seconds = time.process_time() - began
        kept = sum(parameter.nbytes for parameter in body.parameters()) + model.model_head.coef_.nbytes
        guesses = np.asarray(model.predict([texts[u] for u in episode.query.ravel().tolist()], as_numpy=True))
        return Answer(guesses, seconds, kept / MEGABYTE)

    return answer


def best_penalty(workbench: Workbench) -> float:
    """Of logistic regression, by accuracy on the validation tasks."""
    episodes = validation_episodes(workbench)
    features = frozen_features(workbench, episodes)
    return max(PENALTIES, key=lambda penalty: float(queries_right(episodes, features, regression(penalty)).mean()))


def start_of(config: Config, path: Path) -> Adapters:
    """The protonet start of a data set, trained once."""
    if not path.is_file():
        workbench = open_workbench(config, open_corpus(config), "cpu")
        state, seen = trained(workbench, validation_accuracy)
        print(f"{path.stem}: meta-step {state.meta_step} of {seen}", file=sys.stderr, flush=True)
        tensors = {name: tensor.contiguous() for name, tensor in state.initialisation.tensors.items()}
        safetensors.torch.save_file(tensors, path)
    return Adapters(safetensors.torch.load_file(path))


def measure(config: Config, n_tasks: int, theta: Adapters, out: Path, name: str) -> None:
    """Every labeller on the test tasks that no earlier run has done; a task is written once all have answered."""
    workbench = open_workbench(config, open_corpus(config), "cpu")
    episodes = test_episodes(workbench)[:n_tasks]
    done = read_costs(out, name)
    if len(done) >= len(episodes):
        return
    penalty = best_penalty(workbench)
    labellers = {
        "nearest mean": by_features(workbench, nearest_mean_logits, None),
        REGRESSION: by_features(workbench, regression(penalty), None),
        RIVAL: by_setfit(workbench),
        "prototypes": by_features(workbench, cosine_logits, theta),
        "adapt": by_adapting(workbench, theta),
    }
    names = workbench.corpus.dataset.class_names
    with (out / f"{name}.csv").open("a", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        if not done:
            rows.writerow(["task", "class", *labellers])
        for task, episode in enumerate(episodes[len(done) :], len(done)):
            answers = {method: label(episode) for method, label in labellers.items()}
            truth = slots(episode.query, torch.device("cpu")).numpy()
            right = {m: (a.guesses == truth).reshape(episode.query.shape).sum(1) for m, a in answers.items()}
            for slot, c in enumerate(episode.classes):
                rows.writerow([task, names[c], *(int(right[method][slot]) for method in labellers)])
            table.flush()
            costs = {method: [a.seconds, a.megabytes, a.steps] for method, a in answers.items()}
            done.append({"penalty": penalty, "costs": costs})
            (out / f"{name}.json").write_text(json.dumps(done) + "\n")
            print(f"{name} {task}: {[(m, int(r.sum())) for m, r in right.items()]}", file=sys.stderr, flush=True)


def read_costs(out: Path, name: str) -> list[dict[str, Any]]:
    """Of each task that is done."""
    path = out / f"{name}.json"
    return list(json.loads(path.read_text())) if path.is_file() else []


def summary(out: Path, names: list[str], k_query: int) -> Iterator[dict[str, Any]]:
    """The table: accuracy in points, against SetFit on the same tasks; medians of seconds."""
    for name in names:
        costs = read_costs(out, name)
        if not costs:
            continue
        tasks, classes, columns = read_queries([out / f"{name}.csv"], k_query)
        for method, points in columns.items():
            seconds, megabytes, steps = zip(*(task["costs"][method] for task in costs), strict=True)
            yield {
                "tasks": name, "n_tasks": len(costs), "method": method,
                "accuracy": round(float(points.mean()), 2), "ci95": interval(points, tasks, classes),
                "beyond_setfit": round(float((points - columns[RIVAL]).mean()), 2),
                "beyond_ci95": interval(points - columns[RIVAL], tasks, classes),
                "beyond_regression": round(float((points - columns[REGRESSION]).mean()), 2),
                "beyond_regression_ci95": interval(points - columns[REGRESSION], tasks, classes),
                "seconds": round(float(np.median(seconds)), 3), "megabytes": round(megabytes[0], 3),
                "median_steps": None if steps[0] is None else float(np.median(steps)),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for the tables")
    parser.add_argument("data", metavar="NAME=FOLDER", nargs="*", help="data sets, each with its splits/01.json")
    parser.add_argument(
        "--tasks", metavar="N", type=int, nargs=2, default=(50, 50), help="at 1 and at 5 shots; 0 for none"
    )
    parser.add_argument("--names", action="store_true", help="a class's name is one more support utterance")
    arguments = parser.parse_args()
    out: Path = arguments.out
    suffix = "_names" if arguments.names else ""
    out.mkdir(parents=True, exist_ok=True)
    try:
        for dataset, folder in (pair.split("=", 1) for pair in arguments.data):
            base = load_config(CONFIG, (f"dataset={dataset}", f"data_dir={folder}"))
            config = make_config({**base.model_dump(), **COMMON, "names_in_support": arguments.names})
            theta = start_of(config, out / f"{dataset}{suffix}_start.safetensors")
            for shots, n_tasks in zip(SHOTS, arguments.tasks, strict=True):
                if n_tasks == 0:
                    continue
                shot = make_config({**config.model_dump(), "k_support": shots, "num_meta_test_tasks": n_tasks})
                measure(shot, n_tasks, theta, out, f"{dataset}_{shots}_shot{suffix}")
    except InputError as error:
        parser.error(str(error))
    names = sorted(path.stem for path in out.glob("*_shot*.csv"))
    rows = list(summary(out, names, load_config(CONFIG).k_query))
    (out / "adapters.json").write_text(json.dumps(rows, indent=1) + "\n")
    heads = "tasks | n | method | accuracy | 95 % | beyond SetFit | 95 % | beyond regression | 95 % | seconds | MB"
    print(f"| {heads} |\n" + "|---" * 11 + "|")
    for r in rows:
        accuracy, beyond = f"{r['accuracy']} | {r['ci95']}", f"{r['beyond_setfit']:+} | {r['beyond_ci95']}"
        beyond += f" | {r['beyond_regression']:+} | {r['beyond_regression_ci95']}"
        costs = f"{r['seconds']:g} | {r['megabytes']:g}"
        print(f"| {r['tasks']} | {r['n_tasks']} | {r['method']} | {accuracy} | {beyond} | {costs} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
