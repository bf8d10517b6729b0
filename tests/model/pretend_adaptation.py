"""Run by test_pretend_device.py in a process of its own: adapts on the CPU and on the pretend device and compares.

One JSON object; each row is one kind of adaptation, `difference` the largest of any parameter or loss.
"""

import copy
import json
import os
from typing import Any

import torch

from reptile_scaling.bench.launches import small_llama, work_on
from reptile_scaling.bench.pretend_device import PretendDevice, PretendTensor, counts, move, register


def plain(x: Any) -> torch.Tensor:
    return x.raw if isinstance(x, PretendTensor) else x


def main() -> None:
    register()
    torch.set_num_threads(1)
    model, rows = small_llama(), []
    for top, optimizer, tasks, cells in ((None, "sgd", 3, 1), (None, "adam", 2, 3), (2, "sgd", 1, 4)):
        expected = work_on(copy.deepcopy(model), top, tasks, cells)(3, optimizer)
        with PretendDevice():
            adapt_once = work_on(move(copy.deepcopy(model)), top, tasks, cells)
            adapt_once(1, optimizer)
            counts.clear()
            found = adapt_once(3, optimizer)
        pairs = [(found.losses, expected.losses)]
        pairs += [(t, expected.adapters.tensors[n]) for n, t in found.adapters.tensors.items()]
        assert all(isinstance(ours, PretendTensor) for ours, _ in pairs)
        rows.append(
            {
                "work": [top, optimizer, tasks, cells],
                "difference": max(float((plain(a).detach() - b.detach()).abs().max()) for a, b in pairs),
                "fall_of_loss": float((expected.losses[0] - expected.losses[-1]).mean()),
                "waits": dict(counts.waits),
            }
        )
    print(json.dumps(rows), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
