"""Activations entering the first adapted layer, once per utterance, for all tasks, cells and seeds.

Bounded: utterances past the bound are computed each time they are met. Shared on disk, where any later run with the
same weights, layer and precision finds those of the same prompts.

Suffixes: P packed tokens · D width.
"""

import hashlib
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.model.backbone import Backbone
from reptile_scaling.model.lanes import in_lanes
from reptile_scaling.model.packing import PackedTokens, pack_tokens
from reptile_scaling.model.prefix_store import MOST_BYTES, PrefixStore, prompt_key

TOKENS_PER_FORWARD = 1024
"""Bounds the memory of one prefix forward, and keeps its activations near a core; more is done in several."""
TOKENS_PER_PART = 2048
"""Written to disk once so many are new, or a quarter of what is there."""

Progress = Callable[[int, int], None]
"""(tokens done, tokens to do) of a filling."""


class PrefixCache:
    """One `[tokens, D]` tensor in the base's precision, filled as utterances are first asked for."""

    def __init__(self, backbone: Backbone, token_ids: Sequence[Sequence[int]], most_bytes: int = 2**62) -> None:
        """`most_bytes` bounds the tensor; what does not fit is computed anew each time."""
        self._backbone = backbone
        self._token_ids = token_ids
        self._lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        self._start_of = np.full(len(token_ids), -1, dtype=np.int64)
        self._n_tokens = 0
        self._store: PrefixStore | None = None
        self._unsaved: list[int] = []
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

    def fill(self, utterances: Int[np.ndarray, "..."], progress: Progress | None = None) -> None:
        """Computes what is missing of these utterances, as long as there is room."""
        with self._filling:
            missing = np.unique(utterances)
            missing = missing[self._start_of[missing] < 0]
            missing = missing[self._n_tokens + np.cumsum(self._lengths[missing]) <= len(self._hidden_PD)]
            if missing.size:
                computed_PD, start_of = self._compute(missing, progress)
                self._keep(list(start_of), computed_PD)
                self._save(list(start_of))

    def share(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Takes over what earlier runs have left in this folder, and leaves there what is computed from now on."""
        self._store = PrefixStore(folder / self.fingerprint(), most_bytes)
        number_of = {prompt_key(ids): number for number, ids in enumerate(self._token_ids)}
        for keys, hidden_PD in self._store.read(set(number_of)):
            numbers = [number_of[key] for key in keys]
            starts = np.cumsum(self._lengths[numbers]) - self._lengths[numbers]
            ends = starts + self._lengths[numbers]
            new = np.flatnonzero(self._start_of[numbers] < 0)
            room = len(self._hidden_PD) - self._n_tokens
            fitting = new[np.cumsum(self._lengths[numbers][new]) <= room].tolist()
            if fitting:
                rows = np.concatenate([np.arange(starts[i], ends[i]) for i in fitting])
                self._keep([numbers[i] for i in fitting], hidden_PD[torch.from_numpy(rows)].to(self._backbone.device))

    def fingerprint(self) -> str:
        """Changes with the weights below the adapters, the layer and the precision."""
        backbone = self._backbone
        digest = hashlib.sha256(f"{backbone.first_adapted} {backbone.dtype} {backbone.digest}".encode())
        if not backbone.digest:
            for weight in backbone.frozen_weights_below():
                digest.update(struct.pack("<dd", float(weight.double().sum()), float(weight.double().square().sum())))
        return digest.hexdigest()[:24]

    def _keep(self, utterances: list[int], hidden_PD: Tensor) -> None:
        """Takes in activations of utterances one after another."""
        lengths = self._lengths[utterances]
        self._hidden_PD[self._n_tokens : self._n_tokens + len(hidden_PD)] = hidden_PD
        self._start_of[utterances] = self._n_tokens + np.cumsum(lengths) - lengths
        self._n_tokens += len(hidden_PD)

    def _save(self, utterances: list[int]) -> None:
        """Leaves what is new on disk, once it is enough for a part."""
        self._unsaved += utterances
        lengths = self._lengths[self._unsaved]
        n_new = int(lengths.sum())
        if self._store is None or n_new < max(TOKENS_PER_PART, (self._n_tokens - n_new) // 4):
            return
        starts = self._start_of[self._unsaved]
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        keys = [prompt_key(self._token_ids[utterance]) for utterance in self._unsaved]
        self._store.write(keys, lengths.tolist(), self._hidden_PD[self._on_device(rows)])
        self._unsaved = []

    def _compute(
        self, utterances: Int[np.ndarray, "n"], progress: Progress | None = None
    ) -> tuple[Float[Tensor, "P D"], dict[int, int]]:
        """Activations of some utterances, and the row each begins at; side by side on a CPU's cores."""
        # Similar lengths together: attention pads within a forward.
        ordered = utterances[np.argsort(self._lengths[utterances], kind="stable")]
        ends = np.cumsum(self._lengths[ordered])
        n_tokens = int(ends[-1])
        n_groups = _even(-(-n_tokens // TOKENS_PER_FORWARD), len(ordered))
        group_of = np.minimum((ends - 1) * n_groups // n_tokens, n_groups - 1)
        groups = [group for group in np.split(ordered, np.flatnonzero(np.diff(group_of)) + 1) if group.size]
        done = 0
        counting = threading.Lock()

        def compute(share: slice) -> list[Tensor]:
            nonlocal done
            found = []
            for group in groups[share]:
                placed = self._backbone.place(pack_tokens(self._token_ids, [group]))
                found.append(self._backbone.entering_activations(placed))
                with counting:
                    done += len(found[-1])
                    if progress is not None:
                        progress(done, n_tokens)
            return found

        parts = [part for share in in_lanes(compute, range(len(groups)), self._backbone.device) for part in share]
        starts = ends - self._lengths[ordered]
        return torch.cat(parts), dict(zip(ordered.tolist(), starts.tolist(), strict=True))

    def _on_device(self, token_at: np.ndarray) -> Tensor:
        return torch.from_numpy(token_at).to(self._backbone.device)


def _even(n_groups: int, most: int) -> int:
    """At least so many groups, which lanes share without one of them idle."""
    n_threads = torch.get_num_threads()
    return min(-(-n_groups // n_threads) * n_threads, most)
