"""A meta-trained initialisation at work: adapted to one's own labels, then labelling texts.

`adapt_to_labels` runs the inner loop of evaluation on a user's support set and writes a folder; `open_labeller` reads
one back. Any number of classes, any and unequal shots.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from reptile_scaling.config import Config, make_config
from reptile_scaling.data.dataset import IntentDataset
from reptile_scaling.disk import named_refusals
from reptile_scaling.errors import InputError
from reptile_scaling.learning.evaluation import test_loop
from reptile_scaling.learning.starts import starting_points
from reptile_scaling.learning.task_batch import InnerLoop
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapter_facts import adaptation_facts
from reptile_scaling.model.adapters import HEAD_BIAS, HEAD_NAMES, LOG_RATE, Adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.devices import choose_devices
from reptile_scaling.model.engine import Engine, tokenize_prompts
from reptile_scaling.model.heads import HEADS, logits, with_equal_rows
from reptile_scaling.model.label_words import label_vectors_of
from reptile_scaling.model.loading import check_model, load_language_model, proofs_folder
from reptile_scaling.model.peft_io import check_base, load_adapter, load_moments, read_facts, save_adapter
from reptile_scaling.model.prefix_cache import PrefixCache
from reptile_scaling.model.shipped_weights import name_to_load
from reptile_scaling.storage import write_bytes
from reptile_scaling.use.agreement import Evaluation, agreement, check_truth
from reptile_scaling.use.held_out import HeldOut, hold_out, mean_loss
from reptile_scaling.use.kept_support import begin_again, keep_support
from reptile_scaling.use.support_set import SupportSet

TEXTS_PER_FORWARD = 256
TEMPERATURE = "temperature"

CARD = """---
base_model: {base}
library_name: peft
tags: [few-shot, intent-classification]
---
# Labels: {labels}

Adapted from a meta-trained initialisation with {n_support} labelled utterances{names} in {steps} inner steps, {how}
(support loss {before:.3f} → {after:.3f} nats). Logits are divided by {temperature:.3g}.

```bash
reptile-scaling predict --adapter path/to/this/folder --input texts.csv
```
"""


@dataclass(frozen=True)
class LabelledText:
    """A text with the label it was given, or none, and the probability of the likeliest one to six digits."""

    text: str
    label: str
    probability: float


@dataclass(frozen=True)
class Adaptation:
    """How an adaptation went; losses in nats per support utterance, before the first step and after the last."""

    steps: int
    n_support: int
    first_loss: float
    last_loss: float
    held_out: HeldOut | None
    """What left-out support utterances said; None where none could be left out."""
    steps_were_given: bool
    with_names: bool = False
    """Whether the labels' names were in the support set too."""

    @property
    def names(self) -> str:
        """What was read besides the utterances."""
        return " and the names of the labels" if self.with_names else ""

    @property
    def how(self) -> str:
        """Where the number of steps comes from."""
        if self.steps_were_given:
            return "as given"
        if self.held_out is None:
            return "as evaluated: nothing could be left out to choose them"
        return f"chosen by {self.held_out.n} support utterances left out in turn ({self.held_out.loss:.3f} nats)"

    @property
    def temperature(self) -> float:
        """Divides the logits of a prediction; 1 where nothing could be left out."""
        return self.held_out.temperature if self.held_out else 1.0


@dataclass(frozen=True)
class Labeller:
    """A model adapted to `labels`."""

    labels: tuple[str, ...]
    backbone: Backbone
    adapters: Adapters
    """One set, `[1, …]`."""
    config: Config
    temperature: float = 1.0
    """Divides the logits."""

    @torch.no_grad()
    def predict(self, texts: list[str]) -> Float[np.ndarray, "texts labels"]:
        """Probabilities of each label, in the order of the texts. InputError for a text without a word."""
        # As `make_dataset` folds the support set: a blank at the end would be the token that features are read at.
        folded = [" ".join(text.split()) for text in texts]
        if "" in folded:
            raise InputError(f"text {folded.index('') + 1} of {len(texts)} is empty: fill it in or leave it out")
        probabilities = [np.zeros((0, len(self.labels)))]
        for start in range(0, len(texts), TEXTS_PER_FORWARD):
            engine = engine_for_texts(self.backbone, folded[start : start + TEXTS_PER_FORWARD], self.config)
            batch = engine.prepare([np.arange(len(engine.token_ids))])
            scores = logits(self.adapters, engine.features(batch, self.adapters)[None])[0]
            probabilities.append((scores.double() / self.temperature).softmax(-1).cpu().numpy())
        return np.concatenate(probabilities)

    def evaluate(self, texts: list[str], truth: list[str]) -> Evaluation:
        """Predicts texts whose labels are known. InputError for a label that this model does not have."""
        check_truth(truth, self.labels)
        return self.compare(self.predict(texts), truth)

    def compare(self, probabilities: Float[np.ndarray, "texts labels"], truth: list[str]) -> Evaluation:
        """Predictions already made beside labels that `check_truth` has passed."""
        return agreement(self.labels, probabilities, truth)


def label_texts(
    labels: tuple[str, ...],
    texts: list[str],
    probabilities: Float[np.ndarray, "texts labels"],
    abstain_below: float = 0.0,
) -> list[LabelledText]:
    """The likeliest label of each text, or none where its probability is below `abstain_below`."""
    return [
        LabelledText(text, labels[p.argmax()] if p.max() >= abstain_below else "", round(float(p.max()), 6))
        for text, p in zip(texts, probabilities, strict=True)
    ]


def adapt_to_labels(
    adapter: Path,
    support: IntentDataset,
    out: Path,
    *,
    steps: int | None = None,
    learning_rate: float | None = None,
    model: str | None = None,
    device: str = "auto",
) -> tuple[Labeller, Adaptation]:
    """Adapts the initialisation in `adapter` to the classes of `support` and writes the result to the folder `out`.

    Where `adapter` is adapted already, its initialisation is adapted anew, to its utterances and these.

    `steps` are chosen by support utterances that are left out in turn; where none can be, as many passes are made over
    the support set as the initialisation was evaluated with, in batches as large as the support sets it was
    meta-trained on. The same utterances give the temperature of predictions. `model` replaces the base's name, where
    its folder has moved.
    Raises InputError for a folder that holds no initialisation to begin from, fewer than two classes, or an `out` that
    is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {str(out)!r} is not empty: choose another folder")
    adapter, support = begin_again(adapter, support)
    if len(support.class_names) < 2:
        raise InputError(
            f"{support.name}: all rows have the label {support.class_names[0]!r}: give at least two labels"
        )
    config, _ = read_adapter_config(adapter, model)
    if config.inner_rates == "learned" and learning_rate is not None:
        raise InputError(
            f"--lr {learning_rate:g} would replace the rates that {str(adapter)!r} has learned: leave it out"
        )
    backbone, theta = _open(adapter, config, device)
    n_classes = len(support.class_names)
    n_texts, with_names = len(support.texts), config.names_in_support
    engine = engine_for_texts(backbone, support.texts_with_names if with_names else support.texts, config)
    if HEADS[config.head].from_words is not None:
        engine.label_vectors = label_vectors_of(backbone, support.class_names, config.label_words)
    start = starting_points(engine, _head_for(theta, n_classes), [range(n_classes)], config.head)
    moments = load_moments(adapter, backbone.device)
    if moments is not None:
        moments = AdamMoments(_head_for(moments.squares, n_classes), moments.steps).repeated(1)
    names = np.arange(n_classes) if with_names else np.zeros(0, dtype=np.int64)
    slots = np.concatenate([support.labels, names])
    shots = SupportSet(engine, start, slots, np.concatenate(support.utterances_by_class), moments, n_texts + names)
    loop = _loop(config, len(shots.whole), learning_rate)
    engine.remember(shots.whole)
    held_out = hold_out(shots, loop, steps)
    loop = replace(loop, steps=steps if steps is not None else held_out.steps if held_out else loop.steps)
    adapted = shots.adapt(shots.whole, loop)
    single = adapted.adapters.map(lambda tensor: tensor[0])
    if not single.is_finite():
        raise InputError(f"adaptation diverged at --lr {loop.learning_rate:g}: lower it")
    last_loss = mean_loss(shots.scores(adapted.adapters, shots.whole), shots.slots[shots.whole])
    losses = [*adapted.losses[:, 0].tolist(), last_loss]
    done = Adaptation(loop.steps, n_texts, losses[0], losses[-1], held_out, steps is not None, with_names)
    card = CARD.format(
        base=name_to_load(config.model_name), labels=", ".join(support.class_names), n_support=done.n_support,
        names=done.names, steps=done.steps, how=done.how, before=done.first_loss, after=done.last_loss,
        temperature=done.temperature,
    )  # fmt: skip
    facts = {**adaptation_facts(config, support.class_names), TEMPERATURE: done.temperature}
    with named_refusals(out):
        keep_support(out, adapter, support)
        save_adapter(out, backbone, single, config.model_name, facts)
        write_bytes(out / "README.md", card.encode())
    return Labeller(support.class_names, backbone, adapted.adapters, config, done.temperature), done


def open_labeller(adapter: Path, *, model: str | None = None, device: str = "auto") -> Labeller:
    """What `adapt_to_labels` wrote. InputError for an initialisation that no labels belong to yet."""
    config, labels = read_adapter_config(adapter, model)
    if labels is None:
        raise InputError(f"adapter {str(adapter)!r} has no labels yet: run `adapt` first and give its --out folder")
    backbone, theta = _open(adapter, config, device)
    if len(theta.tensors[HEAD_BIAS]) != len(labels):
        raise InputError(
            f"adapter {str(adapter)!r} names {len(labels)} labels, but its head has another number: adapt again"
        )
    temperature = read_facts(adapter).get(TEMPERATURE, 1.0)  # adapters of version 0.1 name none
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise InputError(f"adapter {str(adapter)!r} names a temperature of {temperature!r}: adapt again")
    return Labeller(tuple(labels), backbone, theta.repeated(1), config, temperature)


def read_adapter_config(adapter: Path, model: str | None) -> tuple[Config, list[str] | None]:
    facts = read_facts(adapter)
    settings = dict(facts["config"]) | ({"model_name": model, "model_revision": None} if model else {})
    return make_config(settings), facts["labels"]


def _open(adapter: Path, config: Config, device: str) -> tuple[Backbone, Adapters]:
    """The base on a device with LoRA where the adapter has it, and the adapter's parameters `[…]`."""
    (name, *_) = choose_devices((device,))
    check_model(config)
    targets = None if config.lora_targets == "all" else config.lora_targets
    shape = LoraShape(config.lora_r, config.lora_alpha, config.top_layers, targets)
    backbone = Backbone(load_language_model(config, name), shape, proofs=proofs_folder())
    check_base(adapter, backbone)
    theta = load_adapter(adapter, backbone.device)
    fits = {key: tensor.shape for key, tensor in backbone.fresh_lora(torch.Generator()).items()}
    others = [key for key in theta.tensors if key in HEAD_NAMES or key.endswith(LOG_RATE)]
    stored = {key: tensor.shape for key, tensor in theta.tensors.items() if key not in others}
    if differing := sorted(key for key in fits | stored if fits.get(key) != stored.get(key)):
        raise InputError(
            f"adapter {str(adapter)!r} does not fit the model {config.model_name!r} ({differing[0]} differs): "
            "give --model the base it was trained on"
        )
    return backbone, theta


def _head_for(theta: Adapters, n_classes: int) -> Adapters:
    """θ with a head of so many rows. Slots are drawn at random in meta-training, so its rows are exchangeable: another
    number of classes starts from their mean, all alike, and is at chance before the first step."""
    if len(theta.tensors[HEAD_BIAS]) == n_classes:
        return theta
    return with_equal_rows(theta, n_classes)


def _loop(config: Config, n_support: int, learning_rate: float | None) -> InnerLoop:
    """The inner loop of evaluation, with more steps in mini-batches where the support set is larger than there."""
    loop = test_loop(config)
    trained_on = config.support_size
    if n_support > trained_on:
        passes = -(-n_support // trained_on)
        loop = replace(loop, steps=loop.steps * passes, batch_size=loop.batch_size or trained_on)
    return replace(loop, learning_rate=learning_rate or loop.learning_rate)


def engine_for_texts(backbone: Backbone, texts: tuple[str, ...] | list[str], config: Config) -> Engine:
    token_ids = tokenize_prompts(backbone.tokenizer, texts, config.template, config.max_length)
    return Engine(backbone, token_ids, PrefixCache(backbone, token_ids) if backbone.first_adapted > 0 else None)
