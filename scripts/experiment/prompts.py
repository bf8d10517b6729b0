"""Nearest-class-mean accuracy on frozen features under several prompts: which template to start from.

    python scripts/experiment/prompts.py [KEY=VALUE …]      e.g. dataset=banking77 data_dir=… class_split=protaugment-01

Prints one JSON object; uses validation tasks only, so that a template may be chosen by it. Minutes on two cores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.baselines.probes import nearest_mean
from reptile_scaling.config import make_config, parse_override
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import validation_episodes
from reptile_scaling.learning.workbench import open_corpus, open_workbench

TEMPLATES = (
    "{text}",
    "{text} =>",
    "{text}\nIntent:",
    '{text} means in one word: "',
    'This sentence: "{text}" means in one word: "',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", default=[], help="keys of a configuration")
    arguments = parser.parse_args()
    try:
        print(json.dumps(compared(dict(map(parse_override, arguments.settings))), indent=2))
    except InputError as error:
        parser.error(str(error))


def compared(overrides: dict[str, Any]) -> dict[str, Any]:
    """What is printed, for these keys of a configuration."""
    settings: dict[str, Any] = {"lora_layers": "top-1", "num_validation_tasks": 20, "k_query": 5, **overrides}
    corpus = open_corpus(make_config(settings))
    rows = []
    for template in TEMPLATES:
        workbench = open_workbench(make_config({**settings, "template": template}), corpus, "cpu")
        scores = nearest_mean(workbench, validation_episodes(workbench), Path(), lambda done, of: None)
        tokens = float(np.mean([len(ids) for ids in workbench.engine.token_ids]))
        row = {"template": template, "accuracy": float(scores.accuracy.mean()), "tokens_per_prompt": round(tokens, 1)}
        rows.append({**row, "standard_error": float(scores.accuracy.std(ddof=1) / len(scores.accuracy) ** 0.5)})
    settings.pop("data_dir", None)  # a path of one machine says nothing to a reader
    return {"settings": settings, "templates": rows}


if __name__ == "__main__":
    main()
