"""What every part of a run works on: the configuration with its data, class split and encoder opened."""

from dataclasses import dataclass

import torch

from reptile_scaling.config import Config
from reptile_scaling.datasets import load_dataset
from reptile_scaling.datasets.dataset import IntentDataset
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.encoder import PromptEncoder
from reptile_scaling.model.heads import fresh_head
from reptile_scaling.model.loading import LanguageModel, load_language_model
from reptile_scaling.randomness import stream_seed
from reptile_scaling.tasks import ClassSplit, check_class_sizes, split_classes


@dataclass(frozen=True)
class Corpus:
    """A data set and its class split, checked against the configuration; no model yet."""

    dataset: IntentDataset
    split: ClassSplit


@dataclass(frozen=True)
class Experiment:
    """A corpus and a model on one device, ready to adapt."""

    config: Config
    corpus: Corpus
    encoder: PromptEncoder
    language_model: LanguageModel
    device: str


def open_corpus(config: Config) -> Corpus:
    """Reads the data and splits its classes. Raises InputError for all that can be wrong with them."""
    dataset = load_dataset(config.dataset, config.data_dir)
    check_class_sizes(dataset, config)
    return Corpus(dataset, split_classes(dataset, config))


def open_experiment(config: Config, corpus: Corpus, device: str) -> Experiment:
    """Loads the model onto a device and wraps it."""
    language_model = load_language_model(config, device)
    targets = None if config.lora_targets == "all" else config.lora_targets
    backbone = Backbone(language_model, LoraShape(config.lora_r, config.lora_alpha, config.top_layers, targets))
    encoder = PromptEncoder(backbone, corpus.dataset.texts, config.template, config.max_length)
    return Experiment(config, corpus, encoder, language_model, device)


def fresh_initialisation(experiment: Experiment, seed: int) -> Adapters:
    """θ before meta-training: random LoRA A of this seed, B = 0 and a head of zeros."""
    backbone = experiment.encoder.backbone
    generator = torch.Generator().manual_seed(stream_seed(seed, "lora"))
    head = fresh_head(experiment.config.n_way, backbone.width, backbone.device)
    return Adapters(backbone.fresh_lora(generator) | head)
