"""The families of bench/families.py and the path that serves each: writes docs/models.md.

    python scripts/engine/families_table.py

Ten seconds on one core. Random weights, two layers, LoRA on all; the differences are of features, relative, in fp32.
"""

import argparse
import logging
from pathlib import Path

import torch
import transformers

from reptile_scaling.bench.families import CAUSAL, ENCODERS, tiny_family
from reptile_scaling.model.backbone import Backbone, LoraShape

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = f"""# Models

Every model that is opened is first compared with the Hub's own forward: a few short prompts, frozen and with random
adapters merged into the weights, in float32 and in the precision of the run. It takes the first of these paths that
agrees within rounding:

- **fast**: prompts laid end to end, stacked LoRA, in the last layer the answer token alone ([the engine](engine.md)).
- **fast, whole last layer**: the same, with all tokens in the last layer.
- **slower, padded**: prompts padded to a rectangle, the Hub's own attention, LoRA by hooks. No prefix cache. A line on
  standard error says that this path is taken, and why the fast ones are not.

A model that none of them computes as the Hub does is refused with the figures. `reptile-scaling check MODEL` prints the
comparison for a model of yours. Layers that not every token passes through, such as experts and routers, carry no LoRA.

The table is of tiny models with random weights in transformers {transformers.__version__}, made by
`scripts/engine/families_table.py`; `tests/model/test_families.py` holds it. The difference is the largest of a feature
vector over six prompts, ‖ours − Hub's‖ / ‖Hub's‖, in float32 under random adapters; beside it what rounding explains.

| family | path | difference | allowed | no LoRA at |
|---|---|---|---|---|
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = [row(family) for family in (*CAUSAL, *ENCODERS)]
    PAGE.write_text(HEAD + "".join(rows))


def row(family: str) -> str:
    """One line of the table."""
    backbone = Backbone(tiny_family(family), LoraShape(4, 8.0))
    agreement = backbone.attempts[-1].agreement
    assert agreement is not None
    left_out = ", ".join(sorted({f"`{site.rsplit('.', 1)[-1]}`" for site in backbone.left_out}))
    return f"| {family} | {backbone.path} | {agreement.adapted:.0e} | {agreement.allowed:.0e} | {left_out} |\n"


if __name__ == "__main__":
    main()
