"""A frozen model read at the last token of each prompt, with stacked adapters in its upper layers.

An encoder is read as the mean over a prompt's tokens. A model takes the fastest way that agrees with the Hub's own
forward (`equivalence.py`), or none: `PackedForward`, the same with the whole last layer computed, or `PaddedForward`.

Suffixes: P packed tokens · S prompts · D width.
"""

import logging
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.errors import InputError
from reptile_scaling.model.adapters import LORA_A, LORA_B, Adapters
from reptile_scaling.model.blocks import decoder_layers, decoder_of, find_sites, is_transposed
from reptile_scaling.model.equivalence import in_float32, take_reference
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.packed_forward import PackedForward, PlacedBatch
from reptile_scaling.model.packing import PackedTokens
from reptile_scaling.model.padded_forward import PaddedBatch, PaddedForward
from reptile_scaling.model.proofs import Attempt, ProofFile
from reptile_scaling.model.stacked_lora import Dropout

Batch = PlacedBatch | PaddedBatch
FAST, WHOLE_LAST_LAYER, PADDED = "fast", "fast, whole last layer", "slower, padded"
logger = logging.getLogger("reptile_scaling")


@dataclass(frozen=True)
class LoraShape:
    """Where LoRA sits and how large it is; the config's `lora_*` keys that shape parameters."""

    rank: int
    alpha: float
    top_layers: int | None = None
    targets: tuple[str, ...] | None = None
    """Names of the linear layers, None for all of them."""


class Backbone:
    """Features `[S, D]` of packed prompts under the adapters of many tasks.

    Wraps the linear layers of `language_model` in place: one Backbone owns its model.
    """

    def __init__(
        self, language_model: LanguageModel, lora: LoraShape, *, answers_only: bool = True, proofs: Path | None = None
    ) -> None:
        """InputError for a model that no path computes as the Hub does. `proofs` is a folder that remembers models
        which were compared already; without it this one is compared anew."""
        self.model = language_model.model
        self.tokenizer = language_model.tokenizer
        self.device = next(self.model.parameters()).device
        self.dtype = next(self.model.parameters()).dtype
        self.is_encoder = language_model.is_encoder
        self.digest, self.revision = language_model.digest, language_model.revision
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.lora = lora
        self._decoder = decoder_of(self.model)
        self._layers_name, layers = decoder_layers(self._decoder)
        self.n_layers = len(layers)
        if lora.top_layers is not None and lora.top_layers > self.n_layers:
            raise InputError(
                f"lora_layers = 'top-{lora.top_layers}', but the model has {self.n_layers} layers: "
                f"use 'all', or top-{self.n_layers} at most"
            )
        self.first_adapted = 0 if lora.top_layers is None else self.n_layers - lora.top_layers
        self.blocks = list(layers)
        self.sites = find_sites(self.model, self.blocks[self.first_adapted :], lora.targets)
        self.left_out: frozenset[str] = frozenset()
        """Linear layers that carry no LoRA because not every token passes through them."""
        self.has_transposed_weights = any(is_transposed(self.model.get_submodule(site)) for site in self.sites)
        self._forward: PackedForward | PaddedForward
        proof_file = None
        if proofs is not None and self.digest and self.device.type == "cpu":
            proof_file = ProofFile.of(proofs, self.model, self.digest, lora, answers_only)
        self.attempts = self._proven_path(proof_file, language_model.source, answers_only=answers_only)
        if self.path == PADDED:
            self.first_adapted = 0  # nothing is shared below the adapters

    @property
    def path(self) -> str:
        """Which way serves this model."""
        return self.attempts[-1].path

    def as_json(self) -> dict[str, Any]:
        """What `check --json` prints of the comparison."""
        return {
            "class": type(self.model).__name__,
            "device": str(self.device),
            "path": self.path,
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "n_lora_layers": len(self.sites),
            "without_lora": sorted(self.left_out),
        }

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

    def layer_of(self, site: str) -> int:
        """The number of the block a site lies in."""
        return int(site.split(f"{self._layers_name}.", 1)[1].split(".", 1)[0])

    def frozen_weights_below(self) -> Iterator[Tensor]:
        """The weights that make what enters the first adapted layer: embeddings and the blocks below."""
        above = {id(p) for layer in self.blocks[self.first_adapted :] for p in layer.parameters()}
        return (p for p in self._decoder.parameters() if id(p) not in above)

    def place(self, packed: PackedTokens) -> Batch:
        """Moves a batch to the device; one that runs several times is placed once."""
        return self._forward.place(packed)

    def features(
        self,
        batch: Batch,
        adapters: Adapters | None = None,
        *,
        entering_P: Tensor | None = None,
        dropout: Dropout = None,
    ) -> Float[Tensor, "S D"]:
        """Last-token features after the final norm (of an encoder, means over tokens), fp32.

        `adapters` is a stack `[T, …]`, or None for the frozen model.

        `entering_P [P, D]` are activations that enter the first adapted layer; without them they are computed.
        """
        forward: Any = self._forward  # each takes the batches that it placed
        features: Tensor = forward.features(batch, adapters, entering_P, dropout)
        return features

    @torch.no_grad()
    def entering_activations(self, batch: Batch) -> Float[Tensor, "P D"]:
        """Activations that enter the first adapted layer, of the frozen model."""
        forward: Any = self._forward
        entering: Tensor = forward.entering_activations(batch)
        return entering

    def padded_hidden(self, packed: PackedTokens) -> Float[Tensor, "S L D"]:
        """Activations of the frozen model at every place of the padded path."""
        assert isinstance(self._forward, PaddedForward), self.path
        return self._forward.hidden(self._forward.place(packed))

    def _proven_path(self, proof_file: ProofFile | None, source: str, *, answers_only: bool) -> tuple[Attempt, ...]:
        """The way that an earlier comparison has chosen, or that one does now."""
        proof = proof_file.read() if proof_file else None
        if proof is not None:
            self._leave_out(frozenset(proof.left_out))
            self._forward = self._enter(proof.attempts[-1].path, answers_only=answers_only)
            attempts = proof.attempts
        else:
            attempts = self._choose_path(source, answers_only=answers_only)
            if proof_file is not None:
                proof_file.write(attempts, self.left_out)
        if attempts[-1].path == PADDED:
            logger.warning(f"model {source!r} runs on the slower, padded path ({_words(attempts)})")
        return attempts

    def _choose_path(self, source: str, *, answers_only: bool) -> tuple[Attempt, ...]:
        """Tries the ways from the fastest on until one agrees with the Hub; the last of what was tried serves.

        A base in half precision is first tried in float32, where rounding hides no error, if that fits the memory.
        """
        attempts: list[Attempt] = []
        paths = [FAST, WHOLE_LAST_LAYER, PADDED]
        with in_float32(self.model) as is_another_precision:
            if is_another_precision:
                attempts += self._try(paths, answers_only=answers_only)
                self._forward.leave()
        if not attempts or attempts[-1].serves:
            attempts += self._try(paths[paths.index(attempts[-1].path) if attempts else 0 :], answers_only=answers_only)
        if not attempts[-1].serves:
            raise InputError(
                f"model {source!r} ({type(self.model).__name__}) is computed by no path as the Hub's own code does "
                f"({_words(attempts)}): use another model, or other lora_targets"
            )
        return tuple(attempts)

    def _try(self, paths: list[str], *, answers_only: bool) -> list[Attempt]:
        """In the precision that the weights have now; up to the first path that serves."""
        scale = self.lora.alpha / self.lora.rank
        reference = take_reference(self.model, self.sites, self.lora.rank, scale, is_encoder=self.is_encoder)
        self._leave_out(self.sites.keys() - reference.sites.keys())
        attempts: list[Attempt] = []
        for path in paths:
            forward = None
            try:
                self._forward = forward = self._enter(path, answers_only=answers_only)
                agreement = reference.compare(lambda packed, adapters: self.features(self.place(packed), adapters))
                attempts.append(Attempt(path, str(reference.precision), agreement))
            except (InputError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever a family's own code does not take
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
                attempts.append(Attempt(path, str(reference.precision), None, reason))
            if attempts[-1].serves:
                break
            if forward is not None:
                forward.leave()
        return attempts

    def _enter(self, path: str, *, answers_only: bool) -> PackedForward | PaddedForward:
        scale = self.lora.alpha / self.lora.rank
        if path == PADDED:
            return PaddedForward(self.model, self.sites, scale, is_encoder=self.is_encoder)
        return PackedForward(
            self.model, self.sites, self.first_adapted, self.lora.rank, scale,
            is_encoder=self.is_encoder, answers_only=answers_only and path == FAST,
        )  # fmt: skip

    def _leave_out(self, sites: Set[str]) -> None:
        """No LoRA at layers that tokens are routed to, or whose weights are read without calling them."""
        if sites and self.lora.targets is not None:
            raise InputError(f"lora_targets: not every token passes through {min(sites)}: leave it out")
        self.left_out |= sites
        self.sites = {site: shape for site, shape in self.sites.items() if site not in sites}
        if not self.sites:
            name = type(self.model).__name__
            raise InputError(f"model class {name} has no linear layer that every token passes through: use another")


def _words(attempts: Sequence[Attempt]) -> str:
    return "; ".join(attempt.words() for attempt in attempts)
