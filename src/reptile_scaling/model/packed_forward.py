"""The fast way through a model: prompts laid end to end, stacked LoRA, only the rows and blocks that are needed.

In the last layer only the answer token of each prompt is computed; everything below the first adapted layer can be
handed in. The modelling code stays the Hub's: attention goes through transformers' AttentionInterface, linear layers
and norms are wrapped in place.

Suffixes: P packed tokens · S prompts · D width.
"""

from collections.abc import Callable
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
        self.is_cut = False
        """Whether the last layer hands on answer rows alone."""
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
            self._cut_to_answers()
        # Of two tokens and one prompt, so that what reads answers is told from what reads all.
        probe = self.place(pack_tokens([[0, 0]], [np.zeros(1, dtype=np.int64)]))
        join_readers(model, lambda: self._run(probe, range(self._n_layers)))
        if self._first_adapted > 0:
            for number, layer in enumerate(self._layers):
                self._layers[number] = _Gate(layer, number, self._context)

    def _cut_to_answers(self) -> None:
        """Has the last layer hand on its answer rows alone, where the model goes on with as many as it is given.

        Residuals, norms and what follows are then computed for these rows; attention still reads all of them.
        """
        last, everything = self._layers[-1], range(self._n_layers)
        probe = self.place(pack_tokens([[0, 0], [0], [0, 0, 0]], [np.arange(3)]))
        with torch.no_grad():
            found: list[Tensor] = []
            reader = _reader_of_what_enters(last, lambda: found.append(self._run(probe, everything)))
            if reader is None:
                return
            whole = found[0][0, probe.layout.answer_S]
            child = getattr(last, reader)
            setattr(last, reader, _Whole(child, self._context))
            self._layers[-1] = _AnswersFromHere(last, self._context)
            try:
                cut = self._run(probe, everything)[0]
                # A model's comparison with the Hub's forward comes later and is strict.
                self.is_cut = cut.shape == whole.shape and torch.allclose(cut, whole, rtol=0.1, atol=0.1)
            except (RuntimeError, IndexError):  # one that shapes what it returns as it shaped what it read
                self.is_cut = False
        if not self.is_cut:
            setattr(last, reader, child)
            self._layers[-1] = last

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
            return (output[0] if self.is_cut else output[0, batch.layout.answer_S]).float()
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
        context.rows, context.prompts, context.runs, context.whole = batch.tokens, batch.prompts, layers, None
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


class _Around(nn.Module):
    """A decoder layer with something around it."""

    def __init__(self, layer: nn.Module, context: ForwardContext) -> None:
        super().__init__()
        self.layer = layer
        self.context = context

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)  # e.g. the kind of attention a model asks its layers for


class _AnswersFromHere(_Around):
    """The last layer on the answer rows, but for what its attention reads, which is all rows (`_Whole`)."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        context = self.context
        assert context.answer_rows is not None
        context.whole = hidden
        output = self.layer(hidden.index_select(1, context.answer_rows), *args, **kwargs)
        context.whole = None
        return output


class _Whole(nn.Module):
    """A module that is given the answer rows and reads all rows."""

    def __init__(self, module: nn.Module, context: ForwardContext) -> None:
        super().__init__()
        self.module = module
        self.context = context

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "hidden_states" in kwargs:
            return self.module(*args, **{**kwargs, "hidden_states": self.context.whole})
        return self.module(self.context.whole, *args[1:], **kwargs)


class _Gate(_Around):
    """A decoder layer that computes only where the forward in progress wants it to."""

    def __init__(self, layer: nn.Module, number: int, context: ForwardContext) -> None:
        super().__init__(layer, context)
        self.number = number

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
    """Runs a module on the answer row of each prompt alone; the other rows, where there are any, are zero and never
    read."""

    def __init__(self, module: nn.Module, context: ForwardContext, *, hands_on_all: bool) -> None:
        super().__init__()
        self.module = module
        self.context = context
        self.hands_on_all = hands_on_all
        """Whether what follows shapes the rows as they were read, though the layer may hand on answers alone."""

    def forward(self, x: Tensor) -> Tensor:
        rows_S = self.context.answer_rows
        assert rows_S is not None
        with self.context.on_answers():
            # Where there are as many rows as prompts, each is the answer of its own.
            y: Tensor = self.module(x if x.shape[1] == len(rows_S) else x[:, rows_S])
        if self.context.whole is not None and not self.hands_on_all:
            return y
        return y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy(1, rows_S, y)


def _compute_answers_only(last_layer: nn.Module, context: ForwardContext) -> None:
    """In the last layer: queries, output projection and MLP for one token per prompt; keys and values for all."""
    attention_name, attention = _attention_of(last_layer)
    setattr(attention, READS_ANSWERS_ONLY, True)
    for name in ("q_proj", "o_proj", "dense", "out_proj", "c_proj"):
        if hasattr(attention, name):
            own = _AnswerRows(getattr(attention, name), context, hands_on_all=name == "q_proj")
            setattr(attention, name, own)
    for name, child in last_layer.named_children():
        if name != attention_name and _holds_linears(child):
            setattr(last_layer, name, _AnswerRows(child, context, hands_on_all=False))


def _attention_of(layer: nn.Module) -> tuple[str, nn.Module]:
    return next((n, m) for n, m in layer.named_children() if ("attn" in n or "attention" in n) and _holds_linears(m))


def _reader_of_what_enters(layer: nn.Module, forward: Callable[[], object]) -> str | None:
    """The child through which a layer's attention reads what enters the layer: itself, or the norm before it; None
    where neither does. Found by watching a forward."""
    attention_name, attention = _attention_of(layer)
    entered: list[Tensor] = []
    read: list[Tensor] = []
    given: dict[str, tuple[Tensor, Any]] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs, output: given.update({name: (_hidden(args, kwargs), output)})

    hooks = [
        layer.register_forward_pre_hook(lambda _, a, k: entered.append(_hidden(a, k)), with_kwargs=True),
        attention.register_forward_pre_hook(lambda _, a, k: read.append(_hidden(a, k)), with_kwargs=True),
    ]
    others = [(name, child) for name, child in layer.named_children() if child is not attention]
    hooks += [child.register_forward_hook(watch(name), with_kwargs=True) for name, child in others]
    forward()
    for hook in hooks:
        hook.remove()
    if read[0] is entered[0]:
        return attention_name
    return next((name for name, (x, y) in given.items() if x is entered[0] and y is read[0]), None)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _means(hidden_PD: Tensor, prompt_P: Tensor) -> Tensor:
    """Over the tokens of each prompt, `[S, D]`."""
    lengths_S = torch.bincount(prompt_P)
    sums_SD = hidden_PD.new_zeros(len(lengths_S), hidden_PD.shape[1]).index_add(0, prompt_P, hidden_PD)
    return sums_SD / lengths_S[:, None]


def _holds_linears(module: nn.Module) -> bool:
    """A norm may be called after the attention it follows."""
    return any(linear_shape(m) or isinstance(m, StackedLora) for m in module.modules())
