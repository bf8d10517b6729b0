"""The README.md that travels with an adapter: what it is, how it was measured, how to load it."""

from reptile_scaling.config import Config
from reptile_scaling.runs.records import CellResult

CARD = """---
base_model: {base}
library_name: peft
tags: [meta-learning, reptile, few-shot, intent-classification]
---
# A LoRA initialisation that adapts to new intents in {steps} steps

Meta-trained with {algorithm} on {n_tasks} tasks ({shape}, seed {seed}) of `{dataset}`.

| on {n_test} test tasks of unseen classes | |
|---|---|
| query accuracy after {steps} inner steps | {accuracy:.3f} (chance {chance:.2f}) |
| query loss, nats per utterance | {loss:.3f} |
| zero-step accuracy | {zero_step:.3f} |

```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

```bash
reptile-scaling adapt --adapter path/to/this/folder --support labelled.csv --out my_labels
reptile-scaling predict --adapter my_labels --input texts.csv
```

The prompt is `{template}`; features are {features}. `head.safetensors` holds the
classifier that it was trained with (`head.weight [n_way, width]`, `head.bias [n_way]`).
"""


def model_card(config: Config, dataset: str, result: CellResult, base: str, is_encoder: bool) -> str:
    """The card of one cell's adapter, whose base, by the name that transformers loads, is an encoder or a causal LM."""
    return CARD.format(
        auto_class="AutoModel" if is_encoder else "AutoModelForCausalLM",
        features="the mean of its tokens" if is_encoder else "read at its last token after the final norm",
        base=base,
        steps=config.test_steps,
        algorithm=config.algorithm,
        n_tasks=result.n_tasks,
        shape=config.task_shape,
        seed=result.seed,
        dataset=dataset,
        n_test=result.num_meta_test_tasks,
        accuracy=result.meta_test_accuracy,
        chance=result.chance_accuracy,
        loss=result.meta_test_loss,
        zero_step=result.zero_step_accuracy,
        template=config.template.replace("\n", "\\n"),
    )
