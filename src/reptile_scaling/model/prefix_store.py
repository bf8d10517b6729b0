"""Activations of prompts on disk, shared between runs: by what they are of, within a size limit.

A folder for each state of weights, layer and precision; in it parts that are written whole or not at all, each with the
keys of its prompts, their lengths and their activations one after another. The folders unused for longest go first.

Suffixes: P packed tokens · D width · S prompts.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

MOST_BYTES = 4 * 10**9
"""Of all folders together."""


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
        """Keys among the wanted and their activations `[P, D]` one after another, part by part; torn parts are passed
        over."""
        if not self.folder.is_dir():
            return
        os.utime(self.folder)
        for part in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(part, framework="pt") as file:
                    keys_S, lengths_S = file.get_tensor("keys").numpy(), file.get_tensor("lengths").numpy()
                    is_wanted_S = np.array([key in wanted for key in keys_S.tolist()], dtype=bool)
                    if is_wanted_S.any():
                        hidden_PD = file.get_tensor("hidden")
                        rows = torch.from_numpy(np.flatnonzero(np.repeat(is_wanted_S, lengths_S)))
                        yield keys_S[is_wanted_S].tolist(), hidden_PD if is_wanted_S.all() else hidden_PD[rows]
            except (SafetensorError, OSError):
                continue

    def write(self, keys: Sequence[int], lengths: Sequence[int], hidden_PD: Tensor) -> None:
        """One more part, where it fits the limit; a disk that takes no more costs time, nothing else."""
        if not self._make_room(hidden_PD.nbytes):
            return
        tensors = {
            "keys": torch.tensor(list(keys), dtype=torch.int64),
            "lengths": torch.tensor(list(lengths), dtype=torch.int64),
            "hidden": hidden_PD.cpu().contiguous(),
        }
        part = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, part.with_suffix(".partial"))
            part.with_suffix(".partial").replace(part)
        except (SafetensorError, OSError):
            part.with_suffix(".partial").unlink(missing_ok=True)

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
