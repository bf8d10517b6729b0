"""Where the seconds before the first meta-step go, and those of the step.

    python scripts/engine/startup.py [KEY=VALUE …]      e.g. dataset=banking77 data_dir=… class_split=protaugment-01

Prints one JSON object. Run it twice: the second start finds the model converted and compared; the shared activations
too where a run of these settings has left them.
"""

import argparse
import json
import time
from typing import Any

BEGAN = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    from reptile_scaling.config import parse_override
    from reptile_scaling.errors import InputError

    try:
        print(json.dumps(measured(dict(map(parse_override, arguments.settings))), indent=2))
    except InputError as error:
        parser.error(str(error))


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """What is printed, for these keys of a configuration."""
    from reptile_scaling.config import make_config
    from reptile_scaling.data.episodes import training_pool
    from reptile_scaling.learning import workbench as room
    from reptile_scaling.learning.evaluation import training_loop
    from reptile_scaling.learning.inner_loop import adapt_in_groups
    from reptile_scaling.learning.task_batch import TaskBatch

    seconds, last = {}, BEGAN

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name] = round(now - last, 2)
        last = now

    lap("imports")
    config = make_config({"lora_layers": "top-4", **settings})
    corpus = room.open_corpus(config)
    lap("data")
    workbench = room.open_workbench(config, corpus, "cpu")
    lap("model, its comparison with the Hub's forward where that is new, prompts, activations on disk")
    episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(config.meta_batch_size)
    workbench.engine.prepare([episode.support for episode in episodes])
    lap("activations of the first meta-step's utterances")
    before = sum(seconds.values())
    theta = room.fresh_initialisation(workbench, 0).repeated(len(episodes))
    adapt_in_groups(workbench.engine, TaskBatch(theta, episodes, training_loop(config)))
    lap("first meta-step")
    from reptile_scaling.bench.bench import describe_machine  # imports peft, which a run does not at its start

    settings.pop("data_dir", None)  # a path of one machine says nothing to a reader
    return {
        "machine": describe_machine(),
        "settings": settings,
        "seconds": seconds,
        "before_first_meta_step": round(before, 2),
    }


if __name__ == "__main__":
    main()
