"""What a meta-step of prototypical networks costs, and the loop people write beside it: one core, a minute.

    python scripts/engine/protonet_step.py [key=value …] [--tasks T] [--repeats R] [--json FILE]

The gradients of T tasks of preset `banking77_minilm` (all layers of MiniLM) through support and query sets, by the
engine, and by PEFT on a model of its own: one task at a time, both sets in one batch padded to its longest prompt,
cosine prototypes, `backward`. The two are compared first (relative difference of all gradients as one vector), then
timed in turns; seconds are medians of R. Keys are those of a configuration (`k_support=5`, `data_dir=…`); without data
it takes the utterances of the demo.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.bench.peers import SequentialPeft
from reptile_scaling.bench.timing import interleaved_seconds
from reptile_scaling.config import load_config
from reptile_scaling.data.episodes import Episode, training_pool
from reptile_scaling.errors import InputError
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.evaluation import test_loop
from reptile_scaling.learning.meta_step import batch_gradients
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Workbench, fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.adapters import HEAD_LOG_SCALE, Adapters
from reptile_scaling.model.loading import load_language_model
from reptile_scaling.model.peft_io import lora_config
from reptile_scaling.presets import preset_path

DEMO = ("dataset=home_assistant", "data_dir=null", "class_splits=null")


class PeftEncoder(SequentialPeft):
    """An encoder, whose features are means over tokens."""

    def features(self, prompts: Sequence[Sequence[int]], pad_to: int | None = None) -> Tensor:
        hidden, mask = self.hidden_states(prompts, pad_to)
        return (hidden.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def by_engine(workbench: Workbench, theta: Adapters, episodes: list[Episode]) -> TaskGradients:
    """Of all tasks at once."""
    batch = TaskBatch(theta.repeated(len(episodes)), episodes, test_loop(workbench.config))
    return batch_gradients(workbench.engine, ALGORITHMS["protonet"], batch)


def by_peft(
    peer: PeftEncoder, theta: Adapters, token_ids: list[list[int]], episodes: list[Episode]
) -> list[dict[str, Tensor]]:
    """Of each task in turn, by the engine's names."""
    found = []
    for episode in episodes:
        peer.load(theta)
        scale = theta.tensors[HEAD_LOG_SCALE].clone().requires_grad_()
        weights = dict(peer.named_weights())
        n_way, shots = episode.support.shape
        prompts = [token_ids[u] for part in (episode.support, episode.query) for u in part.ravel()]
        directions = F.normalize(peer.features(prompts), dim=1)
        support, query = directions.split([n_way * shots, len(prompts) - n_way * shots])
        means = F.normalize(support.unflatten(0, (n_way, shots)).mean(1), dim=1)
        labels = torch.arange(n_way).repeat_interleave(episode.query.shape[1])
        loss = F.cross_entropy(scale.exp() * query @ means.T, labels)
        gradients = torch.autograd.grad(loss, [*weights.values(), scale])
        found.append(dict(zip([*weights, HEAD_LOG_SCALE], gradients, strict=True)))
    return found


def relative_difference(ours: TaskGradients, theirs: list[dict[str, Tensor]]) -> float:
    """Of all gradients as one vector."""
    found = [ours.gradients.tensors[name][t] - g for t, own in enumerate(theirs) for name, g in own.items()]
    whole = [g for own in theirs for g in own.values()]
    difference, norm = (torch.stack([g.double().square().sum() for g in gs]).sum().sqrt() for gs in (found, whole))
    return float(difference / norm)


def measured(settings: tuple[str, ...], n_tasks: int, repeats: int) -> dict[str, Any]:
    """What is printed."""
    torch.set_num_threads(1)
    given = settings if any(key.startswith("data_dir=") for key in settings) else (*DEMO, *settings)
    config = load_config(preset_path("banking77_minilm"), ("class_splits=null", *given))
    corpus = open_corpus(config)
    workbench = open_workbench(config, corpus, "cpu")
    base = load_language_model(config, "cpu").model
    peer = PeftEncoder(base, lora_config(workbench.engine.backbone, config.model_name))
    theta = fresh_initialisation(workbench, 0)
    # B = 0 leaves A without a gradient.
    generator = torch.Generator().manual_seed(0)
    theta = theta.map(lambda tensor: tensor + 0.01 * torch.randn(tensor.shape, generator=generator))
    episodes = list(training_pool(corpus.dataset, corpus.split, config, 0).episodes(n_tasks))
    engine = partial(by_engine, workbench, theta, episodes)
    loop = partial(by_peft, peer, theta, workbench.engine.token_ids, episodes)
    difference = relative_difference(engine(), loop())
    seconds = interleaved_seconds({"engine": engine, "peft_loop": loop}, repeats)
    return {
        "machine": describe_machine(), "dtype": str(workbench.engine.backbone.model.dtype).removeprefix("torch."),
        "dataset": config.dataset, "n_way": config.n_way, "k_support": config.k_support, "k_query": config.k_query,
        "tasks": n_tasks, "threads": 1, "relative_difference": float(f"{difference:.1e}"),
        "seconds_per_task": {name: round(value / n_tasks, 4) for name, value in seconds.items()},
        "ratio": round(seconds["peft_loop"] / seconds["engine"], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="key=value", nargs="*", default=[], help="keys of a configuration")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write what is printed")
    arguments = parser.parse_args()
    try:
        found = json.dumps(measured(tuple(arguments.settings), arguments.tasks, arguments.repeats), indent=1)
    except InputError as error:
        parser.error(str(error))
    print(found)
    if arguments.json:
        arguments.json.write_text(found + "\n")


if __name__ == "__main__":
    main()
