"""A frozen causal LM read at the last token of each prompt, with stacked adapters in its upper layers.

An encoder is read as the mean over a prompt's tokens.

Everything below the first adapted layer is computed once per utterance and kept (`PrefixCache`); in the last layer
only the answer token of each prompt is computed. Both are exact; the tests switch them off and compare.

Suffixes: P packed tokens · S prompts · D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from reptile_scaling.errors import InputError
from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters
from reptile_scaling.model.attention import RAGGED_ATTENTION, READS_ANSWERS_ONLY, RaggedLayout, ragged_layout
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.rms_norm import quicken_norms
from reptile_scaling.model.stacked_lora import ForwardContext, StackedLora, TaskRows, join_readers, task_rows


@dataclass(frozen=True)
class LoraShape:
    """Where LoRA sits and how large it is; the config's `lora_*` keys that shape parameters."""

    rank: int
    alpha: float
    top_layers: int | None = None
    targets: tuple[str, ...] | None = None
    """Names of the linear layers, None for all of them."""


@dataclass(frozen=True)
class PlacedBatch:
    """Packed prompts with all that a forward needs of them on the device, so that inner steps wait for no copy."""

    token_ids: Tensor
    positions: Tensor
    layout: RaggedLayout
    tokens: TaskRows
    prompts: TaskRows
    prompt_P: Tensor | None = None
    """The prompt each token belongs to, where prompts are read as means."""


class Backbone:
    """Features `[S, D]` of packed prompts under the adapters of many tasks.

    Wraps the linear layers of `language_model` in place: one Backbone owns its model.
    """

    def __init__(self, language_model: LanguageModel, lora: LoraShape, *, answers_only: bool = True) -> None:
        self.model = language_model.model
        self.tokenizer = language_model.tokenizer
        self.device = next(self.model.parameters()).device
        self.dtype = next(self.model.parameters()).dtype
        self.is_encoder = language_model.is_encoder
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.lora = lora
        self._decoder = self.model.base_model
        self._context = ForwardContext()
        self._layers_name, self._layers = _decoder_layers(self._decoder)
        n_layers = len(self._layers)
        if lora.top_layers is not None and lora.top_layers > n_layers:
            raise InputError(
                f"lora_layers = 'top-{lora.top_layers}', but the model has {n_layers} layers: "
                f"use 'all', or top-{n_layers} at most"
            )
        self.first_adapted = 0 if lora.top_layers is None else n_layers - lora.top_layers
        self.model.set_attn_implementation(RAGGED_ATTENTION)
        quicken_norms(self.model)
        self.sites = self._install_lora()
        if answers_only and not self.is_encoder:
            _compute_answers_only(self._layers[-1], self._context)
        one_token = np.zeros(1, dtype=np.int64)
        probe = self.place(pack_tokens([[0]], [one_token]))
        join_readers(self.model, lambda: self._run(probe, range(n_layers)))
        if self.first_adapted > 0:
            for number, layer in enumerate(self._layers):
                self._layers[number] = _Gate(layer, number, self._context)

    def fresh_lora(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A random A and zero B for every site, so that the adapted model starts as the frozen one.

        A is uniform in ±1/√d_in, as PEFT's default (Kaiming, a = √5); drawn on the CPU, so equal on every device.
        """
        tensors = {}
        for site, (d_out, d_in) in self.sites.items():
            A = torch.empty(self.lora.rank, d_in).uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)
            tensors[site + LORA_A] = A.to(self.device)
            tensors[site + LORA_B] = torch.zeros(d_out, self.lora.rank, device=self.device)
        return tensors

    @property
    def n_layers(self) -> int:
        return len(self._layers)

    def layer_of(self, site: str) -> int:
        """The number of the block a site lies in."""
        return int(site.split(f"{self._layers_name}.", 1)[1].split(".", 1)[0])

    def frozen_weights_below(self) -> Iterator[Tensor]:
        """The weights that make what enters the first adapted layer: embeddings and the blocks below."""
        above = {id(p) for layer in self._layers[self.first_adapted :] for p in layer.parameters()}
        return (p for p in self._decoder.parameters() if id(p) not in above)

    @property
    def has_transposed_weights(self) -> bool:
        """Whether the adapted layers store `[d_in, d_out]`, as GPT-2's do."""
        return any(isinstance(m, StackedLora) and _is_transposed(m.base) for m in self.model.modules())

    def place(self, packed: PackedTokens) -> PlacedBatch:
        """Moves a batch to the device; one that runs several times is placed once."""
        device, dtype = self.device, self.dtype
        rank, scale = self.lora.rank, self.lora.alpha / self.lora.rank
        return PlacedBatch(
            token_ids=torch.from_numpy(packed.token_ids).to(device),
            positions=torch.from_numpy(packed.positions).to(device),
            layout=ragged_layout(packed, device, dtype, is_causal=not self.is_encoder),
            tokens=task_rows(packed.token_offsets, packed.owner_of_task, rank, scale, device, dtype),
            prompts=task_rows(packed.prompt_offsets.tolist(), packed.owner_of_task, rank, scale, device, dtype),
            prompt_P=torch.from_numpy(packed.prompt_of_tokens).to(device) if self.is_encoder else None,
        )

    def features(
        self,
        batch: PlacedBatch,
        adapters: Adapters | None = None,
        *,
        entering_P: Tensor | None = None,
        dropout: tuple[float, list[torch.Generator]] | None = None,
    ) -> Float[Tensor, "S D"]:
        """Last-token features after the final norm (of an encoder, means over tokens), fp32.

        `adapters` is a stack `[T, …]`, or None for the frozen model.

        `entering_P [P, D]` are activations that enter the first adapted layer; without them they are computed.
        """
        context = self._context
        context.adapters, context.dropout, context.ahead = adapters, dropout, {}
        context.entering = None if entering_P is None else entering_P[None]
        output = self._run(batch, range(0 if entering_P is None else self.first_adapted, self.n_layers))
        context.adapters = context.dropout = context.entering = None
        if batch.prompt_P is None:
            return output[0, batch.layout.answer_S].float()
        return _means(output[0].float(), batch.prompt_P)

    @torch.no_grad()
    def entering_activations(self, batch: PlacedBatch) -> Float[Tensor, "P D"]:
        """Activations that enter the first adapted layer, of the frozen model."""
        self._run(batch, range(self.first_adapted))
        entering, self._context.entering = self._context.entering, None
        assert entering is not None
        return entering[0]

    def _run(self, batch: PlacedBatch, layers: range) -> Tensor:
        """The Hub's own forward, in which only these layers compute; `[1, P, D]`."""
        context = self._context
        context.rows, context.prompts, context.runs = batch.tokens, batch.prompts, layers
        context.answer_rows = batch.layout.answer_S
        output = self._decoder(
            input_ids=batch.token_ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            ragged=batch.layout,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _install_lora(self) -> dict[str, tuple[int, int]]:
        """Wraps the targeted linear layers of the adapted blocks; site name → (d_out, d_in)."""
        sites: dict[str, tuple[int, int]] = {}
        adapted = {id(layer) for layer in self._layers[self.first_adapted :]}
        for block_name, block in list(self.model.named_modules()):
            if id(block) not in adapted:
                continue
            for name, linear in list(block.named_modules()):
                shape = _linear_shape(linear)
                if shape is None or (self.lora.targets is not None and name.split(".")[-1] not in self.lora.targets):
                    continue
                site = f"{block_name}.{name}"
                _replace(block, name, StackedLora(linear, site, self._context))
                sites[site] = shape
        if not sites:
            wanted = ", ".join(self.lora.targets or ("any linear layer",))
            raise InputError(f"lora_targets = {wanted} matches no layer of this model: use all, or names found in it")
        return sites


class _Gate(nn.Module):
    """A decoder layer that computes only where the forward in progress wants it to."""

    def __init__(self, layer: nn.Module, number: int, context: ForwardContext) -> None:
        super().__init__()
        self.layer = layer
        self.number = number
        self.context = context

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)  # e.g. the kind of attention a model asks its layers for

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        runs = self.context.runs
        if self.number in runs:
            if self.number == runs.start and self.context.entering is not None:
                hidden = self.context.entering
            return self.layer(hidden, *args, **kwargs)
        if self.number == runs.stop:
            self.context.entering = hidden
        return hidden


class _AnswerRows(nn.Module):
    """Runs a module on the answer row of each prompt alone; the other rows are zero and never read."""

    def __init__(self, module: nn.Module, context: ForwardContext) -> None:
        super().__init__()
        self.module = module
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        rows_S = self.context.answer_rows
        assert rows_S is not None
        with self.context.on_answers():
            y: Tensor = self.module(x[:, rows_S])
        return y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy(1, rows_S, y)


def _compute_answers_only(last_layer: nn.Module, context: ForwardContext) -> None:
    """In the last layer: queries, output projection and MLP for one token per prompt; keys and values for all."""
    attention_name, attention = next(
        (n, m) for n, m in last_layer.named_children() if ("attn" in n or "attention" in n) and _holds_linears(m)
    )
    setattr(attention, READS_ANSWERS_ONLY, True)
    for name in ("q_proj", "o_proj", "dense", "out_proj", "c_proj"):
        if hasattr(attention, name):
            setattr(attention, name, _AnswerRows(getattr(attention, name), context))
    for name, child in last_layer.named_children():
        if name != attention_name and _holds_linears(child):
            setattr(last_layer, name, _AnswerRows(child, context))


def _means(hidden_PD: Tensor, prompt_P: Tensor) -> Float[Tensor, "S D"]:
    """Over the tokens of each prompt."""
    lengths_S = torch.bincount(prompt_P)
    sums_SD = hidden_PD.new_zeros(len(lengths_S), hidden_PD.shape[1]).index_add(0, prompt_P, hidden_PD)
    return sums_SD / lengths_S[:, None]


def _holds_linears(module: nn.Module) -> bool:
    """A norm may be called after the attention it follows."""
    return any(_linear_shape(m) or isinstance(m, StackedLora) for m in module.modules())


def _decoder_layers(decoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and list of the model's blocks, found as the ModuleList of `num_hidden_layers` entries."""
    config: Any = decoder.config
    n_layers = config.get_text_config().num_hidden_layers
    for name, child in decoder.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == n_layers:
            return name, child
    raise InputError(f"model class {type(decoder).__name__} has no plain list of layers: use another model")


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear layer, whichever way it stores its weight; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if _is_transposed(module):
        weight: Any = module.weight
        return int(weight.shape[1]), int(weight.shape[0])
    return None


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"  # GPT-2's linear layer


def _replace(root: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)
