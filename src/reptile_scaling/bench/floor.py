"""The floor: the fewest FLOPs the exact computation needs, over the measured matrix-multiply rate of the same shapes.

Counted are the matrix products of the linear layers and the low-rank paths; attention's products are below 2 % at
these lengths and the rest moves memory. Suffixes: P packed tokens · S prompts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from reptile_scaling.model.backbone import Backbone
from reptile_scaling.model.devices import synchronize
from reptile_scaling.model.lanes import in_lanes


@dataclass(frozen=True)
class Product:
    """The frozen weight of one linear layer on some rows: `rows × d_in → d_out`."""

    rows: int
    d_in: int
    d_out: int
    times: int
    """How often a step multiplies by the weight, which itself needs no gradient: forward, and for its input's."""

    @property
    def flops(self) -> int:
        return self.times * 2 * self.rows * self.d_in * self.d_out


def inner_step_products(backbone: Backbone, n_tokens: int, n_prompts: int) -> list[Product]:
    """The frozen products of one inner step over `n_tokens` in `n_prompts`.

    In the last layer only keys and values are needed for all tokens. What enters the first adapted block is the same at
    every step: products of it are made once for all steps, and nothing trainable lies below it.
    """
    products = []
    for site, (d_out, d_in) in backbone.sites.items():
        layer, leaf = backbone.layer_of(site), site.rsplit(".", 1)[-1]
        for_answers = layer == backbone.n_layers - 1 and leaf not in ("k_proj", "v_proj", "c_attn", "query_key_value")
        reads_entry = layer == backbone.first_adapted and leaf in (
            "q_proj",
            "k_proj",
            "v_proj",
            "c_attn",
            "query_key_value",
        )
        products.append(Product(n_prompts if for_answers else n_tokens, d_in, d_out, 0 if reads_entry else 2))
    return products


def low_rank_flops(backbone: Backbone, products: list[Product]) -> int:
    """`x Aᵀ` and `z Bᵀ` forward, and twice that backward."""
    return sum(6 * p.rows * backbone.lora.rank * (p.d_in + p.d_out) for p in products)


def floor_seconds(backbone: Backbone, products: list[Product]) -> tuple[float, float]:
    """Seconds of one inner step at the rate of plain matrix products, and that rate in FLOP/s.

    Low-rank products are charged at the same rate, which no machine reaches at rank 8: the floor is a lower bound.
    """
    rate = matrix_rate(products, backbone.dtype, backbone.device)
    flops = sum(p.flops for p in products) + low_rank_flops(backbone, products)
    return flops / rate, rate


def matrix_rate(products: list[Product], dtype: torch.dtype, device: torch.device, repeats: int = 5) -> float:
    """FLOP/s of one matrix product of each distinct shape, weighted as the work weighs them; median of several.

    On a CPU the best that an arrangement of its threads reaches at each shape: all on one product, or each on its share
    of the rows.
    """
    # Where a step multiplies by no frozen weight at all, the low-rank path still has the rate of these shapes.
    products = [p for p in products if p.times] or [replace(p, times=1) for p in products]
    shapes = {(p.rows, p.d_in, p.d_out) for p in products}
    seconds = {shape: _product_seconds(*shape, dtype, device, repeats) for shape in shapes}
    total = sum(seconds[p.rows, p.d_in, p.d_out] * p.times for p in products)
    return sum(p.flops for p in products) / total


def _product_seconds(rows: int, d_in: int, d_out: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, d_in, generator=generator).to(device, dtype)
    weight = torch.randn(d_out, d_in, generator=generator).to(device, dtype)

    def whole() -> None:
        torch.nn.functional.linear(x, weight)

    n_lanes = torch.get_num_threads() if device.type == "cpu" else 1
    if n_lanes == 1 or rows < n_lanes:
        return seconds_together(whole, device, repeats)
    return min(seconds_together(whole, device, repeats), seconds_in_lanes(x, weight, n_lanes, repeats))


def seconds_together(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median after two runs that do not count."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def seconds_in_lanes(x: torch.Tensor, weight: torch.Tensor, n_lanes: int, repeats: int) -> float:
    """Of the product where each thread has its share of the rows and waits for no other: the slowest lane's mean."""
    shares = x.tensor_split(n_lanes)

    def work(lanes: slice) -> list[float]:
        found = []
        for share in shares[lanes]:
            torch.nn.functional.linear(share, weight)
            began = time.perf_counter()
            for _ in range(repeats):
                torch.nn.functional.linear(share, weight)
            found.append((time.perf_counter() - began) / repeats)
        return found

    return max(seconds for lane in in_lanes(work, range(n_lanes), x.device) for seconds in lane)
