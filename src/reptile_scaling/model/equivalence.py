"""Whether a model's features are what the Hub's own untouched forward gives, frozen and with adapters merged into it.

Asked of every model that is opened, before anything is trained: a few short prompts of two tasks. The allowed
difference is a few times what the Hub's forward itself makes of one unit in the last place of its embeddings.

Suffixes: S prompts · L tokens · D width · R rank · I inputs · O outputs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters, stack_adapters
from reptile_scaling.model.blocks import decoder_of, is_transposed
from reptile_scaling.model.devices import free_memory
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.padded_forward import hub_forward

PROMPT_LENGTHS = (3, 8, 8)
"""Tokens of each task's prompts: unequal, so that padding and blocks matter, two alike, so that prompts share them."""
N_TASKS = 2
ROWS_MERGED = 64
"""Outputs of each layer that the random adapters move: their weights alone are kept to be put back."""
STRENGTH = 0.25
"""Of the random adapters: what they add to an output they move, in units of what the layer itself gives."""
NOISE_FACTOR = {"float32": 12.0, "bfloat16": 3.0, "float16": 3.0, "int8": 3.0}
"""Allowed: so many times the answer to noise of one unit in the last place. Over the families of docs/models.md and
SmolLM2 the right paths stay below 2 in float32 and 1 in half precision."""


@dataclass(frozen=True)
class Agreement:
    """Largest relative differences over the prompts, ‖ours − Hub's‖ / ‖Hub's‖ of a feature vector."""

    frozen: float
    adapted: float
    allowed: float

    @property
    def holds(self) -> bool:
        """False also for NaN."""
        return self.frozen <= self.allowed and self.adapted <= self.allowed

    def words(self) -> str:
        """For people."""
        return f"differs by {self.frozen:.1e}, with adapters by {self.adapted:.1e}, of {self.allowed:.1e} allowed"


@dataclass(frozen=True)
class Reference:
    """What the Hub's own forward says of some prompts of two tasks."""

    sites: dict[str, tuple[int, int]]
    """The layers that every token passes through once; LoRA can sit at these."""
    packed: PackedTokens
    adapters: Adapters
    """Of both tasks, `[2, …]`."""
    frozen_SD: Tensor
    adapted_SD: Tensor
    noise: float
    """How far the frozen features move under noise of one unit in the last place of the embeddings, relatively."""
    precision: str

    @torch.no_grad()
    def compare(self, features: Callable[[PackedTokens, Adapters | None], Tensor]) -> Agreement:
        """`features` gives `[S, D]` of packed prompts under a stack of adapters or none."""
        return Agreement(
            frozen=_difference(features(self.packed, None), self.frozen_SD),
            adapted=_difference(features(self.packed, self.adapters), self.adapted_SD),
            allowed=NOISE_FACTOR[self.precision] * self.noise,
        )


@torch.no_grad()
def take_reference(
    model: Any, sites: dict[str, tuple[int, int]], rank: int, scale: float, *, is_encoder: bool
) -> Reference:
    """Asks a model that nothing has been done to yet; its weights are what they were when this returns."""
    weight = next(model.parameters())
    rows_SL, lengths_S = _random_prompts(model)
    tasks = np.split(np.arange(len(lengths_S)), N_TASKS)

    def ask(prompts: np.ndarray) -> Tensor:
        rows = torch.from_numpy(rows_SL[prompts]).to(weight.device)
        return _hub_features(decoder_of(model), rows, lengths_S[prompts], is_encoder=is_encoder)

    every = np.arange(len(lengths_S))
    with _watched(model, sites, int(lengths_S.sum()) if is_encoder else rows_SL.size) as passed:
        frozen_SD = ask(every)
    sites = {site: sites[site] for site in passed}
    precision, eps = _precision(model)
    with _noise(model.get_input_embeddings(), eps):
        noise = max(_difference(ask(every), frozen_SD), eps)
    own = [_random_adapters(model, sites, rank, scale, seed) for seed in range(N_TASKS)]
    adapted = []
    for prompts, adapters in zip(tasks, own, strict=True):
        with _merged(model, adapters, scale):
            adapted.append(ask(prompts))
    ids = [row[:length] for row, length in zip(rows_SL.tolist(), lengths_S.tolist(), strict=True)]
    return Reference(
        sites, pack_tokens(ids, tasks), stack_adapters(own), frozen_SD, torch.cat(adapted),
        noise, precision,
    )  # fmt: skip


def _hub_features(decoder: nn.Module, rows_SL: Tensor, lengths_S: np.ndarray, *, is_encoder: bool) -> Tensor:
    """`[S, D]` of the first tokens of each row, without padding: a causal model does not see what follows them, an
    encoder is asked for one length at a time."""
    numbers = torch.arange(len(rows_SL), device=rows_SL.device)
    if not is_encoder:
        return hub_forward(decoder, rows_SL)[numbers, torch.from_numpy(lengths_S - 1).to(rows_SL.device)].float()
    found: dict[int, Tensor] = {}
    for length in np.unique(lengths_S).tolist():
        alike = np.flatnonzero(lengths_S == length)
        means = hub_forward(decoder, rows_SL[torch.from_numpy(alike).to(rows_SL.device), :length]).float().mean(1)
        found |= dict(zip(alike.tolist(), means, strict=True))
    return torch.stack([found[n] for n in range(len(rows_SL))])


def _difference(ours_SD: Tensor, theirs_SD: Tensor) -> float:
    return float(((ours_SD - theirs_SD).norm(dim=1) / theirs_SD.norm(dim=1)).max())


def _precision(model: Any) -> tuple[str, float]:
    """What products are computed in, and one unit in its last place; LLM.int8 rounds activations too."""
    if any(parameter.dtype == torch.int8 for parameter in model.parameters()):
        return "int8", 1 / 127
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return str(dtype).removeprefix("torch."), torch.finfo(dtype).eps


def _random_prompts(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens `[S, L]` and how many of each are a prompt; from the middle of the vocabulary, since special
    tokens live at its ends."""
    n_tokens = int(model.get_input_embeddings().weight.shape[0])
    padding = model.config.get_text_config().pad_token_id
    usual = [token for token in range(n_tokens // 4, n_tokens - n_tokens // 4) if token != padding]
    lengths_S = np.array(PROMPT_LENGTHS * N_TASKS)
    return np.random.default_rng(0).choice(usual, (len(lengths_S), lengths_S.max())), lengths_S


def _random_adapters(model: Any, sites: dict[str, tuple[int, int]], rank: int, scale: float, seed: int) -> Adapters:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for site, (d_out, d_in) in sites.items():
        weight = model.get_submodule(site).weight
        size = float(weight[:ROWS_MERGED].float().square().mean().sqrt()) if weight.is_floating_point() else d_in**-0.5
        rows = torch.randperm(d_out, generator=generator)[:ROWS_MERGED]
        B_OR = torch.zeros(d_out, rank)
        B_OR[rows] = torch.randn(len(rows), rank, generator=generator) * (STRENGTH * size / scale / rank**0.5)
        A_RI = torch.randn(rank, d_in, generator=generator)
        tensors |= {site + LORA_A: A_RI.to(weight.device), site + LORA_B: B_OR.to(weight.device)}
    return Adapters(tensors)


@contextmanager
def _watched(model: Any, sites: dict[str, tuple[int, int]], n_rows: int) -> Iterator[list[str]]:
    """Gathers the sites that see every token once and answer with a plain tensor, in their order."""
    rows_seen, passed = dict.fromkeys(sites, 0), list[str]()

    def watch(site: str) -> Any:
        def see(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            plain = bool(inputs) and isinstance(output, Tensor) and output.shape[:-1] == inputs[0].shape[:-1]
            rows_seen[site] += inputs[0].shape[:-1].numel() if plain else n_rows + 1

        return see

    with ExitStack() as stack:
        for site in sites:
            stack.callback(model.get_submodule(site).register_forward_hook(watch(site)).remove)
        yield passed
    passed += [site for site, seen in rows_seen.items() if seen == n_rows]


@contextmanager
def _merged(model: Any, adapters: Adapters, scale: float) -> Iterator[None]:
    """The model with one set of adapters added to its weights, which are put back bit by bit; a quantised layer's
    product is added to its output."""
    sites = [name.removesuffix(LORA_A) for name in adapters.tensors if name.endswith(LORA_A)]
    with ExitStack() as stack:
        for site in sites:
            A_RI, B_OR = adapters.tensors[site + LORA_A], adapters.tensors[site + LORA_B]
            stack.enter_context(_merged_layer(model.get_submodule(site), A_RI, B_OR * scale))
        yield


@contextmanager
def _merged_layer(layer: Any, A_RI: Tensor, B_OR: Tensor) -> Iterator[None]:
    if not layer.weight.is_floating_point():
        hook = layer.register_forward_hook(lambda _, x, y: y + (x[0].float() @ A_RI.T @ B_OR.T).to(y.dtype))
        yield
        hook.remove()
        return
    weight_OI = layer.weight.data.T if is_transposed(layer) else layer.weight.data
    rows = B_OR.any(1).nonzero()[:, 0]
    before = weight_OI[rows]
    weight_OI[rows] = (before.float() + B_OR[rows] @ A_RI).to(before.dtype)
    try:
        yield
    finally:
        weight_OI[rows] = before


@contextmanager
def in_float32(model: Any) -> Iterator[bool]:
    """The model with its half-precision weights in float32, which are put back bit by bit; whether it came to that:
    not where they are in float32 already or quantised, or would take more than half of the free memory."""
    tensors = [*model.parameters(), *model.buffers()]
    halves = [tensor for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)]
    needed = sum(tensor.numel() for tensor in halves) * 4
    is_quantised = any(not tensor.is_floating_point() for tensor in model.parameters())
    if not halves or is_quantised or needed > free_memory(halves[0].device) / 2:
        yield False
        return
    dtypes = [tensor.dtype for tensor in halves]
    for tensor in halves:
        tensor.data = tensor.data.float()
    try:
        yield True
    finally:
        for tensor, dtype in zip(halves, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)


@contextmanager
def _noise(embedding: nn.Module, size: float) -> Iterator[None]:
    """Relative Gaussian noise on what a module gives."""
    generator = torch.Generator().manual_seed(0)
    hook = embedding.register_forward_hook(
        lambda _, __, y: (y.float() * (1 + size * torch.randn(y.shape, generator=generator).to(y.device))).to(y.dtype)
    )
    yield
    hook.remove()
