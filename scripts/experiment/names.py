"""What the name of a class is worth to features that nothing has trained, and whether it is the name that is.

    python scripts/experiment/names.py OUT banking77=FOLDER clinc150=FOLDER [key=value …]
    python scripts/experiment/names.py results/names       the table of what is there, in seconds

Frozen MiniLM, cosine prototypes, the shared test tasks of the five published splits of each data set, 5-way, 1 and 5
shots: the support set alone, with each class's own name as one more utterance of it (`names_in_support`), with the name
of the class in the next slot instead, and the names alone. Half a minute a split and number of shots; run again, it
goes on where it was. Writes OUT/names.json, accuracies by data set, shots and split, and prints means over splits with
Student's 95 % interval.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from learners import cosine_logits
from over_splits import over_splits

from reptile_scaling.baselines.probes import frozen_features
from reptile_scaling.config import Config, load_config, make_config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import test_episodes
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.shared_features import SharedFeatures
from reptile_scaling.learning.workbench import open_corpus, open_workbench
from reptile_scaling.presets import preset_path

SPLITS, SHOTS = ("01", "02", "03", "04", "05"), (1, 5)
BARE, OWN, NEIGHBOUR, ALONE = "utterances", "and their own name", "and a neighbour's name", "names alone"


def supports(episode: Episode) -> dict[str, np.ndarray]:
    """Support sets `[n_way, …]` by what they hold; the last column of a task's own is the names."""
    utterances, names = episode.support[:, :-1], episode.support[:, -1:]
    other = np.roll(names, 1, axis=0)
    return {
        BARE: utterances, OWN: episode.support, NEIGHBOUR: np.concatenate([utterances, other], axis=1), ALONE: names,
    }  # fmt: skip


def accuracies(config: Config) -> dict[str, float]:
    """Mean over the test tasks, in points, of each kind of support set."""
    workbench = open_workbench(config, open_corpus(config), "cpu")
    episodes = test_episodes(workbench)
    features = frozen_features(workbench, episodes)
    found: dict[str, list[float]] = {}
    for episode in episodes:
        for kind, support in supports(episode).items():
            found.setdefault(kind, []).append(accuracy(features, Episode(episode.classes, support, episode.query)))
    return {kind: round(100 * float(np.mean(values)), 3) for kind, values in found.items()}


def accuracy(features: SharedFeatures, episode: Episode) -> float:
    """Share of the queries that are nearest to their own class's mean direction."""
    scores = cosine_logits(episode, features.of(episode.support), features.of(episode.query))
    return float((scores.argmax(-1) == slots(episode.query, scores.device)).float().mean())


def lines(table: pd.DataFrame) -> Iterator[str]:
    """A row for each data set and number of shots: means over splits."""
    kinds = [BARE, OWN, NEIGHBOUR, ALONE]
    yield f"| frozen MiniLM | splits | {' | '.join(kinds)} | points of the own name |"
    yield "|---" * (len(kinds) + 3) + "|"
    for (dataset, shots), rows in table.groupby(["dataset", "shots"]):
        means = " | ".join(f"{rows[kind].mean():.1f} %" for kind in kinds)
        gain = over_splits(((rows[OWN] - rows[BARE]) / 100).reset_index(drop=True))
        yield f"| {dataset}, {shots}-shot | {len(rows)} | {means} | {gain} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder for the table")
    parser.add_argument("settings", metavar="NAME=FOLDER", nargs="*", help="data sets, and keys of a configuration")
    arguments = parser.parse_args()
    pairs = [pair.split("=", 1) for pair in arguments.settings]
    data = [(name, folder) for name, folder in pairs if name in ("banking77", "clinc150")]
    keys = tuple(f"{name}={value}" for name, value in pairs if name not in ("banking77", "clinc150"))
    path: Path = arguments.out / "names.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    done = {(row["dataset"], row["shots"], row["split"]) for row in rows}
    try:
        base = load_config(preset_path("banking77_minilm"), ("class_splits=null", "names_in_support=true", *keys))
        for dataset, folder in data:
            for shots in SHOTS:
                for split in SPLITS:
                    if (dataset, shots, split) in done:
                        continue
                    own = {"dataset": dataset, "data_dir": folder, "class_split": f"protaugment-{split}"}
                    config = make_config({**base.model_dump(), **own, "k_support": shots})
                    rows.append({"dataset": dataset, "shots": shots, "split": split, **accuracies(config)})
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(rows, indent=1) + "\n")
    except InputError as error:
        parser.error(str(error))
    if not rows:
        parser.error(f"{str(arguments.out)!r} holds no names.json: give results/names, or data sets")
    print(*lines(pd.DataFrame(rows)), sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
