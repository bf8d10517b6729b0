"""An adapter on the Hub, with a card whose metadata says what it was made of and what it measured."""

import json
from pathlib import Path
from typing import Any

from reptile_scaling.errors import InputError
from reptile_scaling.model.peft_io import read_facts
from reptile_scaling.model.shipped_weights import EMBEDDED_MODELS, name_to_load
from reptile_scaling.runs.records import CellResult
from reptile_scaling.storage import read_record
from reptile_scaling.use.kept_support import START, SUPPORT


def push_adapter(adapter: Path, repository: str, *, private: bool, api: Any) -> str:
    """Uploads the folder to `repository` (`user/name`), made where it is not there, and returns its address.

    What `adapt` keeps of the support set stays here. `api` is a `huggingface_hub.HfApi`. Raises InputError for a folder
    that holds no adapter, or where the Hub refuses.
    """
    card = card_for_hub(adapter)
    try:
        address = api.create_repo(repo_id=repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=str(adapter),
            ignore_patterns=["README.md", SUPPORT, f"{START}/*"],
            commit_message="Adapter by reptile-scaling-law",
        )
        api.upload_file(
            repo_id=repository,
            path_or_fileobj=card.encode(),
            path_in_repo="README.md",
            commit_message="Card with metadata",
        )
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors, a malformed name is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the Hub refused {repository!r} ({reason}): log in with hf auth login, and give a name you may write to"
        ) from error
    return str(address)


def card_for_hub(adapter: Path) -> str:
    """The folder's README.md with its metadata filled: base, data set, metrics and, of a finished run, the law."""
    from huggingface_hub import ModelCard

    facts = read_facts(adapter)
    path = adapter / "README.md"
    if not path.is_file():
        raise InputError(f"adapter folder {str(adapter)!r} has no README.md: give one that `run` or `adapt` wrote")
    card: Any = ModelCard(path.read_text(encoding="utf-8"))
    card.data.base_model = _base_on_hub(str(facts["config"]["model_name"]))
    card.data.pipeline_tag = "text-classification"
    result = read_record(adapter.parent / "final_result.json", CellResult)
    if result is not None:
        _add_measurements(card, adapter.parent, result)
    law = _law_of(adapter.parent.parent) if result is not None else ""
    return str(card) + (f"\n## The law of its run\n\n{law}\n" if law else "")


def _base_on_hub(name: str) -> str | None:
    """None for a base that lies in a folder or file of this machine, which is no name to anybody else."""
    if name in EMBEDDED_MODELS:
        return name_to_load(name)
    return None if name.endswith(".gguf") or name.startswith((".", "~", "/")) or Path(name).exists() else name


def _add_measurements(card: Any, cell: Path, result: CellResult) -> None:
    """Data set and query accuracy and loss on the test tasks, as the Hub's model index."""
    from huggingface_hub import EvalResult

    config = json.loads((cell / "config.json").read_text(encoding="utf-8"))
    dataset = Path(str(config["dataset"])).stem  # of a table its name, without where it lies
    task = f"{result.num_meta_test_tasks} tasks of unseen classes"
    task += f", {config['n_way']}-way {config['k_support']}-shot"
    task += ", names in the support" if config.get("names_in_support") else ""
    card.data.datasets = [dataset]
    card.data.metrics = ["accuracy"]
    card.data.model_name = f"{config['algorithm']} on {result.n_tasks} tasks of {dataset}"
    card.data.eval_results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset,
            dataset_name=f"{dataset}: {task}",
            metric_type=kind,
            metric_value=value,
            metric_name=name,
        )
        for kind, value, name in (
            ("accuracy", result.meta_test_accuracy, "query accuracy"),
            ("loss", result.meta_test_loss, "query loss, nats per utterance"),
        )
    ]


def _law_of(run: Path) -> str:
    """The verdict in a sentence; empty where the run has no report yet."""
    path = run / "summary_report.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["verdict_sentence"]) if path.is_file() else ""
