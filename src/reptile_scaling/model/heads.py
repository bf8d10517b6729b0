"""Classifier heads of many tasks at once: `n_way` logits from the features of a prompt.

A new head is a function here and a line in HEADS. Suffixes: T tasks · S prompts per task · W ways · D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_LOG_SCALE, HEAD_WEIGHT, HEAD_WORDS, Adapters

PROTOTYPE_SHARPNESS = 5.0
"""Mean squared distance in units of logits: assumed, so that a typical class gap is of order one."""


def fresh_head(n_way: int, width: int, device: torch.device) -> dict[str, Tensor]:
    """A head that knows nothing: all logits are equal, so zero-step accuracy is chance."""
    return {
        HEAD_WEIGHT: torch.zeros(n_way, width, device=device),
        HEAD_BIAS: torch.zeros(n_way, device=device),
    }


def with_equal_rows(adapters: Adapters, n_way: int) -> Adapters:
    """One set `[…]` whose head has `n_way` rows, each the mean of its own: the mean over all orders of slots."""
    own = {name: adapters.tensors[name] for name in (HEAD_WEIGHT, HEAD_BIAS, HEAD_WORDS) if name in adapters.tensors}
    rows = {name: tensor.mean(0).expand(n_way, *tensor.shape[1:]).clone() for name, tensor in own.items()}
    return Adapters(adapters.tensors | rows)


def logits(adapters: Adapters, features_TSD: Float[Tensor, "T S D"]) -> Float[Tensor, "T S W"]:
    """Logits of each task's prompts under its own head, in fp32; with a scale, of their directions alone, or, where
    there are words, of the words and of so many times the prototypes."""
    weight_TWD, bias_TW = adapters.tensors[HEAD_WEIGHT], adapters.tensors[HEAD_BIAS]
    if (log_scale_T := adapters.tensors.get(HEAD_LOG_SCALE)) is not None:
        scale_T11 = log_scale_T.exp()[:, None, None]
        if (words_TWD := adapters.tensors.get(HEAD_WORDS)) is not None:
            weight_TWD, bias_TW = words_TWD + scale_T11 * weight_TWD, scale_T11[:, :, 0] * bias_TW
        else:
            features_TSD = F.normalize(features_TSD, dim=2)
            weight_TWD = scale_T11 * F.normalize(weight_TWD, dim=2)
    return torch.baddbmm(bias_TW[:, None], features_TSD, weight_TWD.transpose(1, 2))


def task_losses(logits_TSW: Float[Tensor, "T S W"], slots_TS: Int[Tensor, "T S"]) -> Float[Tensor, "T"]:
    """Cross-entropy in nats per prompt, mean over the prompts of each task."""
    return F.cross_entropy(logits_TSW.transpose(1, 2), slots_TS, reduction="none").mean(1)


def prototype_head(
    features_TSD: Float[Tensor, "T S D"], slots_S: Int[Tensor, "S"], n_way: int, sharpness: float = PROTOTYPE_SHARPNESS
) -> dict[str, Tensor]:
    """Logits of a support-mean classifier as a linear head, `[T, …]` (Proto-MAML, Triantafillou et al. 2020).

    Squared distances `−‖f − c_w‖²` up to a constant, divided by their mean over the support set: the raw ones are
    in the hundreds for a language model's features and would start every task with a saturated softmax.
    """
    means_TWD = class_means(features_TSD, slots_S, n_way)
    distances_TSW = (features_TSD[:, :, None] - means_TWD[:, None]).square().sum(-1)
    spread_T = distances_TSW.mean((1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    temperature_T11 = spread_T[:, None, None] / sharpness
    return {
        HEAD_WEIGHT: 2 * means_TWD / temperature_T11,
        HEAD_BIAS: -means_TWD.square().sum(-1) / temperature_T11[:, :, 0],
    }


def cosine_head(features_TSD: Float[Tensor, "T S D"], slots_S: Int[Tensor, "S"], n_way: int) -> dict[str, Tensor]:
    """The mean direction of each class's support features, `[T, …]`; logits are scaled cosines to it.

    Prototypes of directions, as matching networks compare them (Vinyals et al. 2016, arXiv:1606.04080; Gidaris &
    Komodakis 2018, arXiv:1804.09458); a feature's length says nothing here.
    """
    means_TWD = class_means(F.normalize(features_TSD, dim=2), slots_S, n_way)
    return {HEAD_WEIGHT: means_TWD, HEAD_BIAS: means_TWD.new_zeros(means_TWD.shape[:2])}


def class_means(features_TSD: Float[Tensor, "T S D"], slots_S: Int[Tensor, "S"], n_way: int) -> Float[Tensor, "T W D"]:
    """The mean feature of each class's support set; classes may have different numbers of utterances."""
    members_WS = F.one_hot(slots_S, n_way).T.to(features_TSD.dtype)
    return (members_WS / members_WS.sum(1, keepdim=True)) @ features_TSD


def words_head(vectors_TWD: Float[Tensor, "T W D"]) -> dict[str, Tensor]:
    """The LM's own logits of each label's words: their unembedding vectors as a linear head, `[T, …]`."""
    return {HEAD_WEIGHT: vectors_TWD, HEAD_BIAS: vectors_TWD.new_zeros(vectors_TWD.shape[:2])}


def unscaled_prototype_head(
    features_TSD: Float[Tensor, "T S D"], slots_S: Int[Tensor, "S"], n_way: int
) -> dict[str, Tensor]:
    """`prototype_head` for a head whose scale is learned."""
    return prototype_head(features_TSD, slots_S, n_way, sharpness=1.0)


def words_beside(vectors_TWD: Float[Tensor, "T W D"]) -> dict[str, Tensor]:
    """The words alone, until the support set gives prototypes: a product of two experts (Hinton 2002)."""
    return {HEAD_WORDS: vectors_TWD}


FIRST_COSINE_SCALE = 10.0
"""What cosines are multiplied by before anything is learned. Learned alone at a rate of 0.03 a step it went from 10 to
16 in 60 episodes, and started at 20 or learned, accuracy stayed within its interval (one seed, docs/LOG.md)."""


@dataclass(frozen=True)
class Head:
    """What a task's head is before its first inner step; with no function it is θ's own, meta-learned."""

    reset: Callable[[int, int, torch.device], dict[str, Tensor]] | None = None
    """(n_way, width, device) → head `[…]` that replaces θ's, before the zero-step reading."""
    from_support: Callable[[Tensor, Tensor, int], dict[str, Tensor]] | None = None
    """(support features `[T, S, D]`, their slots `[S]`, n_way) → heads `[T, …]`, after the zero-step reading."""
    from_words: Callable[[Tensor], dict[str, Tensor]] | None = None
    """(vectors of the labels' words `[T, W, D]`) → heads `[T, …]`, before the zero-step reading."""

    first_scale: float | None = None
    """What a scale that is learned with θ begins from; without words beside it, that of cosines."""
    has_words_beside: bool = False

    def own_parameters(self, n_way: int, width: int, device: torch.device) -> dict[str, Tensor]:
        """What θ holds besides weight and bias."""
        found = {}
        if self.first_scale is not None:
            found[HEAD_LOG_SCALE] = torch.tensor(self.first_scale, device=device).log()
        if self.has_words_beside:
            found[HEAD_WORDS] = torch.zeros(n_way, width, device=device)
        return found

    @property
    def is_meta_learned(self) -> bool:
        """Whether tasks start from θ's head."""
        return self.reset is None and self.from_support is None and self.from_words is None


HEADS = {
    "classifier": Head(),
    "zero": Head(reset=fresh_head),
    "prototype": Head(from_support=prototype_head),
    "cosine": Head(from_support=cosine_head, first_scale=FIRST_COSINE_SCALE),
    "label_words": Head(from_words=words_head),
    "words_prototype": Head(
        from_words=words_beside, from_support=unscaled_prototype_head, first_scale=PROTOTYPE_SHARPNESS,
        has_words_beside=True,
    ),
}  # fmt: skip
