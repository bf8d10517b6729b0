"""What is pushed to the Hub: the folder, and a card that its own library reads back."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from reptile_scaling.errors import InputError
from reptile_scaling.storage import unseal
from reptile_scaling.use.publish import card_for_hub, push_adapter


class FakeHub:
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def create_repo(self, **given: Any) -> str:
        self.asked["create_repo"] = given
        return f"https://hub.example/{given['repo_id']}"

    def upload_folder(self, **given: Any) -> None:
        self.asked["upload_folder"] = given

    def upload_file(self, **given: Any) -> None:
        self.asked["upload_file"] = given


class ClosedHub(FakeHub):
    """Refuses everything."""

    def create_repo(self, **given: Any) -> str:
        raise OSError("401 Client Error:\n Unauthorized")


def test_folder_and_card_are_uploaded_to_a_repository_that_is_made(adapter: Path) -> None:
    hub = FakeHub()
    assert push_adapter(adapter, "me/mine", private=True, api=hub) == "https://hub.example/me/mine"
    assert hub.asked["create_repo"] == {"repo_id": "me/mine", "private": True, "exist_ok": True}
    folder = hub.asked["upload_folder"]
    assert (folder["repo_id"], folder["folder_path"]) == ("me/mine", str(adapter))
    assert folder["ignore_patterns"] == ["README.md", "support.csv", "start/*"], (
        "the card with metadata takes its place; utterances are nobody else's"
    )
    assert hub.asked["upload_file"]["path_in_repo"] == "README.md"
    assert hub.asked["upload_file"]["path_or_fileobj"] == card_for_hub(adapter).encode()


def test_card_has_data_set_and_the_cell_s_own_figures(adapter: Path) -> None:
    result = json.loads((adapter.parent / "final_result.json").read_text())
    data = ModelCard(card_for_hub(adapter)).data
    assert (data.library_name, data.datasets, data.metrics) == ("peft", ["toy"], ["accuracy"])
    assert data.base_model is None, "a folder of this machine is no name to anybody else"
    found = {entry.metric_type: entry.metric_value for entry in data.eval_results}
    assert found == {"accuracy": result["meta_test_accuracy"], "loss": result["meta_test_loss"]}


def test_card_names_a_base_of_the_hub_and_the_law_of_a_finished_run(adapter: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run" / "cell" / "adapter"
    copy.mkdir(parents=True)
    for file in adapter.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for name in ("final_result.json", "config.json"):
        (copy.parent / name).write_bytes((adapter.parent / name).read_bytes())
    facts = json.loads((copy / "adaptation.json").read_text())
    facts["config"]["model_name"] = "smollm2-135m-instruct"
    unseal(copy)
    (copy / "adaptation.json").write_text(json.dumps(facts))
    (tmp_path / "run" / "summary_report.json").write_text(json.dumps({"verdict_sentence": "It falls."}))
    card = card_for_hub(copy)
    assert ModelCard(card).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.endswith("## The law of its run\n\nIt falls.\n")


def test_refusals_are_one_sentence(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the Hub refused 'me/mine' \(401 Client Error: Unauthorized\): log in"):
        push_adapter(adapter, "me/mine", private=False, api=ClosedHub())
    with pytest.raises(InputError, match=r"has no adaptation.json: give"):
        push_adapter(tmp_path, "me/mine", private=False, api=FakeHub())
