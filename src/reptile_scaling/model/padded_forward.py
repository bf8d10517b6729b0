"""The slower way through a model, for families that do not fit the fast one: padded, the Hub's own attention.

LoRA is added to the linear layers' outputs by hooks, prompt by prompt, so nothing of the model is replaced and no
product holds rows of two prompts.

Suffixes: S prompts · L places of a padded prompt · P tokens that count · D width · I inputs.
"""

import inspect
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters
from reptile_scaling.model.blocks import decoder_of
from reptile_scaling.model.packing import PackedTokens
from reptile_scaling.model.stacked_lora import Dropout, ForwardContext, dropout_mask


@dataclass(frozen=True)
class PaddedBatch:
    """Prompts as a rectangle, on the device."""

    token_ids_SL: Tensor
    mask_SL: Tensor
    place_P: Tensor
    """Flattened place of each token."""
    answer_S: Tensor
    """Place of each prompt's last token."""
    task_S: Tensor
    token_offsets: list[int]


class _InProgress(threading.local):
    """The batch of the forward in progress; each thread sees its own."""

    batch: PaddedBatch | None = None


class PaddedForward:
    """Features of prompts padded on the right, where no token that counts sees the padding."""

    def __init__(self, model: Any, sites: dict[str, tuple[int, int]], scale: float, *, is_encoder: bool) -> None:
        self._device = next(model.parameters()).device
        self._decoder = decoder_of(model)
        self._is_encoder = is_encoder
        self._scale = scale
        self._context = ForwardContext()
        self._now = _InProgress()
        self._padding_id = model.config.get_text_config().pad_token_id or 0
        self._hooks = [model.get_submodule(site).register_forward_hook(self._hook(site)) for site in sites]

    def leave(self) -> None:
        """Gives the model back as it was."""
        for hook in self._hooks:
            hook.remove()

    def place(self, packed: PackedTokens) -> PaddedBatch:
        """Moves a batch to the device."""
        n_prompts, width = len(packed.lengths), int(packed.lengths.max())
        place_P = packed.prompt_of_tokens * width + packed.positions
        ids = np.full(n_prompts * width, self._padding_id, dtype=np.int64)
        ids[place_P] = packed.token_ids
        mask = np.zeros(n_prompts * width, dtype=np.int64)
        mask[place_P] = 1
        task_S = np.repeat(np.arange(len(packed.owner_of_task)), np.diff(packed.prompt_offsets))

        def placed(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(self._device)

        return PaddedBatch(
            token_ids_SL=placed(ids.reshape(n_prompts, width)),
            mask_SL=placed(mask.reshape(n_prompts, width)),
            place_P=placed(place_P),
            answer_S=placed(packed.lengths - 1),
            task_S=placed(task_S),
            token_offsets=list(packed.token_offsets),
        )

    def features(
        self, batch: PaddedBatch, adapters: Adapters | None, entering_P: Tensor | None, dropout: Dropout
    ) -> Tensor:
        """`[S, D]` fp32; see `Backbone.features`. Nothing is handed in below the adapters on this way."""
        assert entering_P is None
        hidden_SLD = self.hidden(batch, adapters, dropout)
        if self._is_encoder:
            counts_SL1 = batch.mask_SL[:, :, None]
            return (hidden_SLD.float() * counts_SL1).sum(1) / counts_SL1.sum(1)
        return hidden_SLD[torch.arange(len(batch.answer_S), device=self._device), batch.answer_S].float()

    def hidden(self, batch: PaddedBatch, adapters: Adapters | None = None, dropout: Dropout = None) -> Tensor:
        """Activations after the final norm at every place, `[S, L, D]`."""
        self._context.adapters, self._context.dropout, self._now.batch = adapters, dropout, batch
        try:
            return hub_forward(self._decoder, batch.token_ids_SL, batch.mask_SL)
        finally:
            self._context.adapters = self._context.dropout = self._now.batch = None

    def entering_activations(self, batch: PaddedBatch) -> Tensor:
        """Never asked for: there is no prefix cache on this way."""
        raise AssertionError("the padded path has no prefix cache")

    def _hook(self, site: str) -> Any:
        def add_low_rank(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            adapters, batch = self._context.adapters, self._now.batch
            if adapters is None or batch is None:
                return output
            x = inputs[0]
            n_prompts, width = batch.token_ids_SL.shape
            if x.numel() != n_prompts * width * x.shape[-1]:
                raise ValueError(f"layer {site} does not see every token, as an expert that tokens are routed to")
            x_SLI = x.reshape(n_prompts, width, -1)
            if self._context.dropout is not None:
                x_SLI = x_SLI * _padded_mask(batch, x_SLI, self._context.dropout)
            A_SRI = adapters.tensors[site + LORA_A].to(x.dtype)[batch.task_S]
            B_SOR = adapters.tensors[site + LORA_B].to(x.dtype)[batch.task_S]
            path_SLO = (x_SLI @ A_SRI.transpose(1, 2) * self._scale) @ B_SOR.transpose(1, 2)
            return output + path_SLO.view(output.shape)

        return add_low_rank


def hub_forward(decoder: nn.Module, token_ids_SL: Tensor, mask_SL: Tensor | None = None) -> Tensor:
    """Activations after the final norm, `[S, L, D]`, as the Hub's modelling code computes them."""
    options: dict[str, Any] = {} if mask_SL is None else {"attention_mask": mask_SL}
    if "use_cache" in inspect.signature(decoder.forward).parameters:
        options["use_cache"] = False
    hidden: Tensor = decoder(input_ids=token_ids_SL, **options).last_hidden_state
    return hidden


def _padded_mask(batch: PaddedBatch, x_SLI: Tensor, dropout: tuple[float, list[torch.Generator]]) -> Tensor:
    """The masks that the packed path would draw, in their places."""
    n_inputs = x_SLI.shape[-1]
    mask_PI = dropout_mask(x_SLI.new_empty(len(batch.place_P), n_inputs), batch.token_offsets, *dropout)
    return (
        x_SLI.new_zeros(x_SLI.shape[0] * x_SLI.shape[1], n_inputs).index_copy(0, batch.place_P, mask_PI).view_as(x_SLI)
    )
