"""Activations of prompts on disk, shared between runs: by what they are of, within a size limit.

A folder for each state of weights, layer and precision; in it sealed parts that are written whole or not at all, each
with the keys of its prompts, their lengths and their activations one after another. A part that is not as it was
written is removed, and what it held is computed again. The folders unused for longest go first.

Suffixes: P packed tokens · D width · S prompts.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from reptile_scaling.errors import StorageError
from reptile_scaling.seals import BLANK, BrokenSeal
from reptile_scaling.storage import read_tensors, write_tensors

MOST_BYTES = 4 * 10**9
"""Of all folders together."""
BYTES_PER_PART = 64 * 10**6
"""About: a part is held in memory as a whole, twice, while its digest is taken."""


def prompt_key(token_ids: Sequence[int]) -> int:
    """64 bits of a hash of the tokens."""
    digest = hashlib.blake2b(np.asarray(token_ids, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class PrefixStore:
    """The activations of one state of a model: a folder of parts inside the folder of all states."""

    folder: Path
    most_bytes: int = MOST_BYTES

    def read(self, wanted: set[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Keys among the wanted and their activations `[P, D]` one after another, part by part; those that are not as
        they were written are removed."""
        if not self.folder.is_dir():
            return
        os.utime(self.folder)
        for part in sorted(self.folder.glob("*.safetensors")):
            found = _read_part(part)
            if found is None:
                continue
            keys_S, lengths_S, hidden_PD = found["keys"].numpy(), found["lengths"].numpy(), found["hidden"]
            is_wanted_S = np.array([key in wanted for key in keys_S.tolist()], dtype=bool)
            if is_wanted_S.any():
                rows = torch.from_numpy(np.flatnonzero(np.repeat(is_wanted_S, lengths_S)))
                yield keys_S[is_wanted_S].tolist(), hidden_PD if is_wanted_S.all() else hidden_PD[rows]

    def write(self, keys: Sequence[int], lengths: Sequence[int], hidden_PD: Tensor) -> None:
        """In parts, where they fit the limit; a disk that takes no more costs time, nothing else."""
        ends = np.cumsum(lengths)
        part_of = ends * (hidden_PD.nbytes // len(hidden_PD)) // BYTES_PER_PART
        with suppress(StorageError, OSError):
            if not self._make_room(hidden_PD.nbytes):
                return
            for own in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(part_of)) + 1):
                tensors = {
                    "keys": torch.tensor([keys[i] for i in own], dtype=torch.int64),
                    "lengths": torch.tensor([lengths[i] for i in own], dtype=torch.int64),
                    "hidden": hidden_PD[ends[own[0]] - lengths[own[0]] : ends[own[-1]]].cpu().contiguous(),
                }
                write_tensors(self.folder / f"{uuid.uuid4().hex}.safetensors", save(tensors, metadata=BLANK))

    def _make_room(self, n_bytes: int) -> bool:
        """Removes the states of other models that were unused for longest, as far as needed."""
        if n_bytes > self.most_bytes or not self.folder.parent.is_dir():
            return n_bytes <= self.most_bytes
        states = sorted((f for f in self.folder.parent.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)
        sizes = {state: sum(part.stat().st_size for part in state.iterdir()) for state in states}
        for state in states:
            if sum(sizes.values()) + n_bytes <= self.most_bytes:
                break
            if state != self.folder:
                shutil.rmtree(state, ignore_errors=True)
                sizes.pop(state)
        return sum(sizes.values()) + n_bytes <= self.most_bytes


def _read_part(part: Path) -> dict[str, Tensor] | None:
    """Its tensors; None for one that is damaged, of before parts were sealed, or taken away by another process."""
    try:
        content = read_tensors(part)
        return load(content) if content is not None else None
    except StorageError:
        return None
    except (BrokenSeal, SafetensorError):
        part.unlink(missing_ok=True)
        return None
