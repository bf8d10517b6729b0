"""The fast way through a model: prompts laid end to end, stacked LoRA, only the rows and blocks that are needed.

In the last layer only the answer token of each prompt is computed (`last_layer`); everything below the first adapted
layer can be handed in, and what no adapter changes above it is computed once for a batch. The modelling code stays the
Hub's: attention goes through transformers' AttentionInterface, linear layers and norms are wrapped in place.

Suffixes: P packed tokens · S prompts · D width.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters
from reptile_scaling.model.attention import RAGGED_ATTENTION, RaggedLayout, ragged_layout
from reptile_scaling.model.blocks import decoder_layers, decoder_of, remember_modules, replace, restore_modules
from reptile_scaling.model.last_layer import (
    REFUSALS,
    Around,
    Whole,
    ask_apart,
    compute_answers_only,
    cut_to_answers,
    leave_keys,
)
from reptile_scaling.model.low_rank import choose_products
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.rms_norm import quicken_norms
from reptile_scaling.model.stacked_lora import (
    Dropout,
    ForwardContext,
    StackedLora,
    TaskRows,
    join_readers,
    mark_constants,
    watch,
)


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
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    """What no adapter changes, filled by the first forward under adapters and with gradients: it depends on what enters
    them alone, which is one and the same for a batch."""

    @property
    def kept_tensors(self) -> list[Tensor]:
        """Those of `kept`."""
        return [tensor for kept in self.kept.values() for tensor in kept]


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
        self._takes_entering = False
        """Whether the model can be handed what enters its first adapted layer in place of embedded tokens."""
        self.asks_apart = False
        """Whether the queries of other rows are not computed there at all."""
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
            compute_answers_only(self._layers[-1], self._context)
        for number, layer in enumerate(self._layers):
            self._layers[number] = _Gate(layer, number, self._context)
        if answers_only:
            self._hand_on_answers()
        # Of two tokens and one prompt, so that what reads answers is told from what reads all.
        probe = self.place(pack_tokens([[0, 1]], [np.zeros(1, dtype=np.int64)]))
        layers = [module for module in model.modules() if isinstance(module, StackedLora)]
        whole = [module for module in model.modules() if isinstance(module, Whole)]
        seen, again = (watch(layers, whole, partial(self._probe, probe, self._random(sites, seed))) for seed in (0, 1))
        join_readers(seen)
        mark_constants(seen, again)
        if self._first_adapted > 0:
            self._takes_entering = self._gives_the_same_without_embedding(probe)

    @torch.no_grad()
    def _hand_on_answers(self) -> None:
        # As many tokens as no size of a model is, and different ones; prompts as short as any sliding window.
        n_tokens = np.array([1, *[3] * 12])
        ids = np.arange(n_tokens.sum()) % int(self._model.config.get_text_config().vocab_size)
        prompts = [own.tolist() for own in np.split(ids, np.cumsum(n_tokens)[:-1])]
        probe = self.place(pack_tokens(prompts, [np.arange(len(prompts))]))
        last: Any = self._layers[-1]
        forward = partial(self._probe, probe)
        cut = cut_to_answers(last, self._context, forward, probe.layout.answer_S)
        self.is_cut = cut is not None
        if cut is not None:
            self.asks_apart = ask_apart(last, self._context, forward, cut, int(n_tokens.sum()))

    @torch.no_grad()
    def _gives_the_same_without_embedding(self, probe: PlacedBatch) -> bool:
        expected = self._probe(probe)
        self._takes_entering = True
        try:
            return torch.equal(self._probe(probe), expected)
        except REFUSALS:  # a model that reads the tokens themselves
            return False

    @torch.no_grad()
    def _probe(self, probe: PlacedBatch, adapters: Adapters | None = None) -> Tensor:
        """The adapted layers' output, `[1, P, D]` or of the answers alone, for made-up activations that enter them."""
        width = int(self._model.config.get_text_config().hidden_size)
        entering = torch.randn(1, len(probe.token_ids), width, generator=torch.Generator().manual_seed(0))
        self._context.adapters, self._context.entering = adapters, entering.to(self._device, self._dtype)
        try:
            return self._run(probe, range(self._first_adapted, self._n_layers))
        finally:
            self._context.adapters = self._context.entering = None

    def _random(self, sites: dict[str, tuple[int, int]], seed: int) -> Adapters:
        """Adapters of one task."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for site, (d_out, d_in) in sites.items():
            drawn[site + LORA_A] = torch.randn(1, self._rank, d_in, generator=generator).to(self._device)
            drawn[site + LORA_B] = torch.randn(1, d_out, self._rank, generator=generator).to(self._device)
        return Adapters(drawn)

    def leave(self) -> None:
        """Gives the model back as it was."""
        restore_modules(self._untouched)
        for module, _ in self._untouched:
            leave_keys(module)
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
        # What is read without gradients, a query set, is mostly read once and by far the larger.
        context.kept = batch.kept if adapters is not None and torch.is_grad_enabled() else None
        context.entering = None if entering_P is None else entering_P[None]
        output = self._run(batch, range(0 if entering_P is None else self._first_adapted, self._n_layers))
        context.adapters = context.dropout = context.entering = context.kept = None
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
        skips_embedding = self._takes_entering and context.entering is not None
        output = self._decoder(
            input_ids=None if skips_embedding else batch.token_ids[None],
            inputs_embeds=context.entering if skips_embedding else None,
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


class _Gate(Around):
    """A decoder layer that computes only where the forward in progress wants it to."""

    def __init__(self, layer: nn.Module, number: int, context: ForwardContext) -> None:
        super().__init__(layer, context)
        self.number = number

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        runs = self.context.runs
        if self.number in runs:
            if self.number == runs.start and self.context.entering is not None:
                hidden = self.context.entering
            return self.module(hidden, *args, **kwargs)
        if self.number == runs.stop:
            self.context.entering = hidden
        return hidden


def _means(hidden_PD: Tensor, prompt_P: Tensor) -> Tensor:
    """Over the tokens of each prompt, `[S, D]`."""
    lengths_S = torch.bincount(prompt_P)
    sums_SD = hidden_PD.new_zeros(len(lengths_S), hidden_PD.shape[1]).index_add(0, prompt_P, hidden_PD)
    return sums_SD / lengths_S[:, None]
