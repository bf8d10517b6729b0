"""adapter_config.json is written without PEFT, and is what PEFT itself would have written."""

from pathlib import Path

import pytest
import torch
from test_families import tiny_family

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.peft_io import save_adapter


@pytest.mark.parametrize(("family", "is_transposed"), [("llama", False), ("gpt2", True)])
def test_peft_reads_what_it_would_have_written(family: str, is_transposed: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftConfig

    backbone = Backbone(tiny_family(family), LoraShape(4, 8.0, 1))
    theta = Adapters(backbone.fresh_lora(torch.Generator()) | fresh_head(3, backbone.width, backbone.device))
    save_adapter(tmp_path / "ours", backbone, theta, "the/base", {"config": {}, "labels": None})
    LoraConfig(
        task_type="CAUSAL_LM", base_model_name_or_path="the/base", r=4, lora_alpha=8.0, lora_dropout=0.0, bias="none",
        fan_in_fan_out=is_transposed, target_modules=sorted(backbone.sites), inference_mode=True,
    ).save_pretrained(tmp_path / "theirs")  # fmt: skip
    ours, theirs = (PeftConfig.from_pretrained(str(tmp_path / name)).to_dict() for name in ("ours", "theirs"))
    assert ours.pop("peft_version", None) in (None, theirs.pop("peft_version", None))
    assert ours == theirs
