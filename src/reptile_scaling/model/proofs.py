"""Comparisons with the Hub's forward that have been made, kept so that the same one is made once.

A proof is of the same weights, by the same code, in the same shape and precision, on the same kind of processor: when
any of these changes, the model is compared anew. On an accelerator, where it takes no time, it always is.
"""

import hashlib
import inspect
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from reptile_scaling.errors import InputError
from reptile_scaling.model.equivalence import Agreement
from reptile_scaling.storage import read_record, write_sealed


@dataclass(frozen=True)
class Attempt:
    """One way through the model, and how it compared with the Hub's forward or why it could not run."""

    path: str
    precision: str
    agreement: Agreement | None
    error: str | None = None

    @property
    def serves(self) -> bool:
        """Whether this way gives what the Hub's forward gives."""
        return self.agreement is not None and self.agreement.holds

    def words(self) -> str:
        """For people."""
        return f"{self.path}, {self.precision}: {self.agreement.words() if self.agreement else self.error}"


@dataclass(frozen=True)
class Proof:
    """What was tried; the last way served."""

    attempts: tuple[Attempt, ...]
    left_out: tuple[str, ...]
    """Linear layers that not every token passes through."""


@dataclass(frozen=True)
class ProofFile:
    """Where the proof of one model is kept."""

    path: Path

    @classmethod
    def of(cls, folder: Path, model: Any, digest: str, *facts: object) -> "ProofFile":
        """By the weights' digest and all else that the outcome hangs on; `facts` are the shape of the adapters."""
        dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
        own = (Path(inspect.getfile(type(model))), Path(inspect.getfile(type(model.config))))
        parts = (
            digest, facts, model.config.to_json_string(use_diff=False), dtypes, torch.backends.cpu.get_cpu_capability(),
            platform.python_version(), torch.__version__, transformers.__version__,
            _code_digest(own), _code_digest(tuple(sorted(Path(__file__).parent.glob("*.py")))),
        )  # fmt: skip
        return cls(folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json")

    def read(self) -> Proof | None:
        """None where there is none, or one that is torn or says that nothing served."""
        try:
            proof = read_record(self.path, Proof)
        except InputError:
            return None
        return proof if proof is not None and proof.attempts and proof.attempts[-1].serves else None

    def write(self, attempts: Sequence[Attempt], left_out: frozenset[str]) -> None:
        """A cache folder that takes no file costs time, nothing else."""
        with suppress(OSError, ValueError):  # also NaN, which JSON does not hold
            write_sealed(self.path, Proof(tuple(attempts), tuple(sorted(left_out))))


@cache
def _code_digest(files: tuple[Path, ...]) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()
