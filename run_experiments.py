"""The experiment as a script: edit CONFIG and N_TASKS_LIST, then run `.venv/bin/python run_experiments.py`.

The keys are those of configs/*.yaml; a run that was cut goes on where it was.
"""

import sys
from pathlib import Path

from reptile_scaling.cli import run_config
from reptile_scaling.config import load_config, make_config
from reptile_scaling.errors import InputError

N_TASKS_LIST = [2, 4, 8, 16, 50, 200]

CONFIG = {
    **load_config(Path(__file__).parent / "configs" / "demo.yaml").model_dump(),
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
        sys.exit(f"error: {error}")
