"""The fast way through a model: prompts laid end to end, stacked LoRA, only the rows and blocks that are needed.

In the last layer only the answer token of each prompt is computed; everything below the first adapted layer can be
handed in. The modelling code stays the Hub's: attention goes through transformers' AttentionInterface, linear layers
and norms are wrapped in place.

Suffixes: P packed tokens · S prompts · D width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.attention import RAGGED_ATTENTION, READS_ANSWERS_ONLY, RaggedLayout, ragged_layout
from reptile_scaling.model.blocks import (
    decoder_layers,
    decoder_of,
    linear_shape,
    remember_modules,
    replace,
    restore_modules,
)
from reptile_scaling.model.low_rank import choose_products
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.rms_norm import quicken_norms
from reptile_scaling.model.stacked_lora import Dropout, ForwardContext, StackedLora, TaskRows, join_readers


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


class PackedForward:
    """Features of packed prompts; wraps the layers of its model until `leave`."""

    def __init__(
        self, model: Any, sites: dict[str, tuple[int, int]], first_adapted: int, rank: int, scale: float,
        *, is_encoder: bool, answers_only: bool,
    ) -> None:  # fmt: skip
        weight = next(model.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self._rank, self._scale = rank, scale
        self._is_encoder = is_encoder
        self._model, self._attention = model, model.config._attn_implementation
        self._untouched = remember_modules(model)
        self._decoder = decoder_of(model)
        self._first_position = first_position(self._decoder)
        self._context = ForwardContext()
        _, self._layers = decoder_layers(self._decoder)
        self._first_adapted, self._n_layers = first_adapted, len(self._layers)
        try:
            self._enter(sites, answers_only=answers_only and not is_encoder)
        except BaseException:
            self.leave()
            raise

    def _enter(self, sites: dict[str, tuple[int, int]], *, answers_only: bool) -> None:
        model = self._model
        model.set_attn_implementation(RAGGED_ATTENTION)
        quicken_norms(model)
        for site in sites:
            replace(model, site, StackedLora(model.get_submodule(site), site, self._context))
        if answers_only:
            _compute_answers_only(self._layers[-1], self._context)
        probe = self.place(pack_tokens([[0]], [np.zeros(1, dtype=np.int64)]))
        join_readers(model, lambda: self._run(probe, range(self._n_layers)))
        if self._first_adapted > 0:
            for number, layer in enumerate(self._layers):
                self._layers[number] = _Gate(layer, number, self._context)

    def leave(self) -> None:
        """Gives the model back as it was."""
        restore_modules(self._untouched)
        for module, _ in self._untouched:
            module.__dict__.pop(READS_ANSWERS_ONLY, None)
        self._model.set_attn_implementation(self._attention)

    def place(self, packed: PackedTokens) -> PlacedBatch:
        """Moves a batch to the device."""
        device = self._device
        return PlacedBatch(
            token_ids=torch.from_numpy(packed.token_ids).to(device),
            positions=torch.from_numpy(packed.positions + self._first_position).to(device),
            layout=ragged_layout(packed, device, self._dtype, is_causal=not self._is_encoder),
            tokens=self._task_rows(packed.token_offsets, packed.owner_of_task),
            prompts=self._task_rows(packed.prompt_offsets.tolist(), packed.owner_of_task),
            prompt_P=torch.from_numpy(packed.prompt_of_tokens).to(device) if self._is_encoder else None,
        )

    def _task_rows(self, offsets: list[int], owner_of_task: np.ndarray) -> TaskRows:
        return TaskRows(
            offsets, choose_products(offsets, owner_of_task, self._rank, self._scale, self._device, self._dtype)
        )

    def features(
        self, batch: PlacedBatch, adapters: Adapters | None, entering_P: Tensor | None, dropout: Dropout
    ) -> Tensor:
        """`[S, D]` fp32; see `Backbone.features`."""
        context = self._context
        context.adapters, context.dropout, context.ahead = adapters, dropout, {}
        context.entering = None if entering_P is None else entering_P[None]
        output = self._run(batch, range(0 if entering_P is None else self._first_adapted, self._n_layers))
        context.adapters = context.dropout = context.entering = None
        if batch.prompt_P is None:
            return output[0, batch.layout.answer_S].float()
        return _means(output[0].float(), batch.prompt_P)

    def entering_activations(self, batch: PlacedBatch) -> Tensor:
        """`[P, D]`: what enters the first adapted layer, of the frozen model."""
        self._run(batch, range(self._first_adapted))
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


def first_position(decoder: nn.Module) -> int:
    """The position of a prompt's first token: 0, or as RoBERTa counts them, the one after the padding's."""
    counts_padding: Any = getattr(decoder, "embeddings", None)
    if hasattr(counts_padding, "create_position_ids_from_input_ids"):
        return int(counts_padding.padding_idx) + 1
    return 0


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


def _means(hidden_PD: Tensor, prompt_P: Tensor) -> Tensor:
    """Over the tokens of each prompt, `[S, D]`."""
    lengths_S = torch.bincount(prompt_P)
    sums_SD = hidden_PD.new_zeros(len(lengths_S), hidden_PD.shape[1]).index_add(0, prompt_P, hidden_PD)
    return sums_SD / lengths_S[:, None]


def _holds_linears(module: nn.Module) -> bool:
    """A norm may be called after the attention it follows."""
    return any(linear_shape(m) or isinstance(m, StackedLora) for m in module.modules())
