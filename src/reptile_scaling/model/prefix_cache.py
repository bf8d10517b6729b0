"""Activations entering the first adapted layer, once per utterance, for all tasks, cells and seeds.

Bounded: utterances past the bound are computed each time they are met. On request kept on disk, where any later run
with the same weights, prompts, layer and precision finds them.

Suffixes: P packed tokens · D width.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reptile_scaling.model.backbone import Backbone
from reptile_scaling.model.packing import PackedTokens, pack_tokens

# Bounds the memory of one prefix forward; more utterances are done in several.
TOKENS_PER_FORWARD = 4096

Told = Callable[[int, int], None]
"""Hears how many utterances and tokens each forward has computed, and 0, 0 before the first of a fill."""


class PrefixCache:
    """One `[tokens, D]` tensor in the base's precision, filled as utterances are first asked for."""

    def __init__(
        self, backbone: Backbone, token_ids: Sequence[Sequence[int]], most_bytes: int = 2**62, told: Told | None = None
    ) -> None:
        """`most_bytes` bounds the tensor; what does not fit is computed anew each time."""
        self._told = told or (lambda n_utterances, n_tokens: None)
        self._backbone = backbone
        self._token_ids = token_ids
        self._lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        self._start_of = np.full(len(token_ids), -1, dtype=np.int64)
        self._n_tokens = 0
        self._filling = threading.Lock()
        room = min(int(self._lengths.sum()), most_bytes // (backbone.width * backbone.dtype.itemsize))
        # Memory that is not written to yet costs a CPU nothing.
        self._hidden_PD = torch.empty(room, backbone.width, dtype=backbone.dtype, device=backbone.device)

    @property
    def nbytes(self) -> int:
        """Bytes once it is full."""
        return self._hidden_PD.nbytes

    def rows(self, packed: PackedTokens) -> Float[Tensor, "P D"]:
        """The activations of packed prompts, in their order; missing ones are computed first."""
        self.fill(packed.utterances)
        starts_S = self._start_of[packed.utterances]
        cached_P = np.repeat(starts_S >= 0, packed.lengths)
        row_P = np.repeat(starts_S, packed.lengths) + packed.positions
        if cached_P.all():
            return self._hidden_PD[self._on_device(row_P)]
        computed_PD, start_of = self._compute(np.unique(packed.utterances[starts_S < 0]))
        own_start_S = np.array([start_of.get(utterance, 0) for utterance in packed.utterances.tolist()])
        own_row_P = np.repeat(own_start_S, packed.lengths) + packed.positions
        rows_PD = computed_PD[self._on_device(np.where(cached_P, 0, own_row_P))]
        rows_PD[self._on_device(np.flatnonzero(cached_P))] = self._hidden_PD[self._on_device(row_P[cached_P])]
        return rows_PD

    def fill(self, utterances: Int[np.ndarray, "..."]) -> None:
        """Computes what is missing of these utterances, as long as there is room."""
        with self._filling:
            self._fill(utterances)

    def _fill(self, utterances: Int[np.ndarray, "..."]) -> None:
        missing = np.unique(utterances)
        missing = missing[self._start_of[missing] < 0]
        missing = missing[self._n_tokens + np.cumsum(self._lengths[missing]) <= len(self._hidden_PD)]
        if not missing.size:
            return
        computed_PD, start_of = self._compute(missing)
        self._hidden_PD[self._n_tokens : self._n_tokens + len(computed_PD)] = computed_PD
        for utterance, start in start_of.items():
            self._start_of[utterance] = self._n_tokens + start
        self._n_tokens += len(computed_PD)

    def keep_on_disk(self, folder: Path) -> None:
        """Reads the whole data set's activations from a file of this folder, or computes and writes them there."""
        path = folder / f"prefix_{self.fingerprint()}.safetensors"
        if path.is_file() and self._read(path):
            return
        self.fill(np.arange(len(self._token_ids)))
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.partial")
        tensors = {"hidden": self._hidden_PD[: self._n_tokens].cpu(), "start_of": torch.from_numpy(self._start_of)}
        save_file(tensors, aside)
        aside.replace(path)

    def fingerprint(self) -> str:
        """Changes with the weights below the adapters, the prompts, the layer and the precision."""
        backbone = self._backbone
        digest = hashlib.sha256(f"{backbone.first_adapted} {backbone.dtype} {len(self._hidden_PD)}".encode())
        for weight in backbone.frozen_weights_below():
            digest.update(struct.pack("<dd", float(weight.double().sum()), float(weight.double().square().sum())))
        for ids in self._token_ids:
            digest.update(np.asarray([len(ids), *ids], dtype=np.int64).tobytes())
        return digest.hexdigest()[:24]

    def _read(self, path: Path) -> bool:
        """Whether the file was whole; a torn one is computed and written again."""
        try:
            with safe_open(path, framework="pt", device=str(self._backbone.device)) as file:
                hidden_PD, start_of = file.get_tensor("hidden"), file.get_tensor("start_of")
        except (SafetensorError, OSError):
            return False
        self._hidden_PD[: len(hidden_PD)] = hidden_PD
        self._start_of, self._n_tokens = start_of.cpu().numpy(), len(hidden_PD)
        return True

    def _compute(self, utterances: Int[np.ndarray, "n"]) -> tuple[Float[Tensor, "P D"], dict[int, int]]:
        """Activations of some utterances, and the row each begins at."""
        # Similar lengths together: attention pads within a forward.
        ordered = utterances[np.argsort(self._lengths[utterances], kind="stable")]
        ends = np.cumsum(self._lengths[ordered])
        groups = np.split(ordered, np.flatnonzero(np.diff(ends // TOKENS_PER_FORWARD)) + 1)
        packed = [pack_tokens(self._token_ids, [group]) for group in groups if group.size]
        self._told(0, 0)
        parts = []
        for part in packed:
            parts.append(self._backbone.entering_activations(self._backbone.place(part)))
            self._told(len(part.lengths), len(part.token_ids))
        starts = ends - self._lengths[ordered]
        return torch.cat(parts), dict(zip(ordered.tolist(), starts.tolist(), strict=True))

    def _on_device(self, token_at: np.ndarray) -> Tensor:
        return torch.from_numpy(token_at).to(self._backbone.device)
