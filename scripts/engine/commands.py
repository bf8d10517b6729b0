"""Seconds that `adapt` on 25 utterances and `predict` on 100 texts take as commands, and the imports' part of them.

    python scripts/engine/commands.py ADAPTER [--repeats 3]

ADAPTER is the `adapter` folder of a finished cell. Prints medians as JSON; the model is converted and compared before.
Only idle machines tell.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from reptile_scaling.bench.bench import describe_machine
from reptile_scaling.lab.provenance import software_versions

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = str(Path(sys.executable).with_name("reptile-scaling"))
IMPORTS = [sys.executable, "-c", "import reptile_scaling.use.labeller, transformers.models.llama.modeling_llama"]
N_TEXTS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", metavar="ADAPTER", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(json.dumps(measured(arguments.adapter, arguments.repeats), indent=2))


def measured(adapter: Path, repeats: int) -> dict[str, object]:
    """What is printed."""
    seconds: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        adapted, texts = Path(folder) / "adapted", Path(folder) / "texts.csv"
        write_texts(texts)
        support = ["--support", str(EXAMPLES / "intents_support.csv")]
        for number in range(repeats):
            out = f"{adapted}{number}"
            commands = {
                "imports": IMPORTS,
                "adapt": [COMMAND, "adapt", "--adapter", str(adapter), *support, "--out", out],
                "predict": [COMMAND, "predict", "--adapter", out, "--input", str(texts)],
            }
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    medians = {name: round(statistics.median(own), 1) for name, own in seconds.items()}
    return {"machine": describe_machine(), "repeats": repeats, "seconds": medians, "versions": software_versions()}


def write_texts(target: Path) -> None:
    """As many texts as are counted, those of the examples in turn."""
    with (EXAMPLES / "intents_test.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with target.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in islice(cycle(texts), N_TEXTS))])


if __name__ == "__main__":
    main()
