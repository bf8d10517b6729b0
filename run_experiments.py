"""The experiment as a script: edit CONFIG and N_TASKS_LIST, then run `python run_experiments.py` where
`pip install -r requirements.txt` has installed the package.

The keys are those of docs/config.md; a run that was cut goes on where it was. Exit codes are those of the command line.
"""

import sys
from pathlib import Path

from reptile_scaling.cli import run_config
from reptile_scaling.config import load_config, make_config
from reptile_scaling.errors import InputError

N_TASKS_LIST = [2, 4, 8, 16, 50, 200]

CONFIG = {
    **load_config("demo").model_dump(),
    "n_tasks_list": N_TASKS_LIST,
    "seeds": [0, 1],
    # "model_name": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    # "dataset": "banking77",
}

OUTPUT_FOLDER = Path("experiments_scaling_law")

if __name__ == "__main__":
    try:
        sys.exit(run_config(make_config(CONFIG), OUTPUT_FOLDER))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
