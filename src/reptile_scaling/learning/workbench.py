"""What every part of a run works on: the configuration with its data, class split and encoder opened."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from reptile_scaling.config import Config
from reptile_scaling.data.class_split import ClassSplit, check_class_sizes, split_across, split_classes
from reptile_scaling.data.dataset import IntentDataset
from reptile_scaling.data.readers import load_dataset
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import Engine, tokenize_prompts
from reptile_scaling.model.heads import HEADS, fresh_head
from reptile_scaling.model.label_words import label_vectors_of
from reptile_scaling.model.loading import LanguageModel, load_language_model, prefix_folder, proofs_folder
from reptile_scaling.model.memory import MemoryNeed, memory_need, usable_memory
from reptile_scaling.model.prefix_cache import PrefixCache, Told, silent
from reptile_scaling.model.rms_norm import FrozenRmsNorm
from reptile_scaling.randomness import stream_seed

# Of what the weights leave of the memory budget; adaptation needs the rest.
CACHE_SHARE = 0.3


@dataclass(frozen=True)
class Corpus:
    """A data set and its class split, checked against the configuration; no model yet."""

    dataset: IntentDataset
    split: ClassSplit


@dataclass(frozen=True)
class Workbench:
    """A corpus and a model on one device, ready to adapt."""

    config: Config
    corpus: Corpus
    engine: Engine
    language_model: LanguageModel
    device: str
    memory: MemoryNeed

    @property
    def peak_memory_bytes(self) -> float:
        """What a meta-step of a whole cohort needs, by the formula."""
        return self.memory.peak(self.config.tasks_per_step, self.engine.tasks_in_flight)

    @property
    def tokens_per_inner_step(self) -> float:
        """Support tokens of one task in one inner step, on average."""
        n_support = self.config.train_support_size
        utterances = min(self.config.inner_batch_size or n_support, n_support)
        return utterances * float(np.mean([len(ids) for ids in self.engine.token_ids]))

    @property
    def n_parameters(self) -> int:
        """Of the model, adapters not counted; the engine keeps the frozen scales of norms as buffers."""
        model = self.language_model.model
        scales = (module.scale for module in model.modules() if isinstance(module, FrozenRmsNorm))
        return sum(int(tensor.numel()) for tensor in (*scales, *model.parameters()))

    @property
    def memory_sentence(self) -> str:
        """The formula with its figures."""
        return self.memory.sentence(self.config.tasks_per_step, self.engine.tasks_in_flight)


def open_corpus(config: Config) -> Corpus:
    """Reads the data and splits its classes. Raises InputError for all that can be wrong with them."""
    columns = (config.text_column, config.label_column)
    dataset = load_dataset(config.dataset, config.data_dir, *columns, config.min_class_size)
    if config.test_dataset is None:
        check_class_sizes(dataset, config)
        return Corpus(dataset, split_classes(dataset, config))
    tested = load_dataset(config.test_dataset, config.test_data_dir, min_class_size=config.min_class_size)
    both, split = split_across(dataset, tested, config)
    check_class_sizes(both, config)
    return Corpus(both, split)


def open_workbench(config: Config, corpus: Corpus, device: str, told: Told = silent) -> Workbench:
    """Loads the model onto a device, wraps it, and settles how many tasks its memory allows at once.

    `told` hears how the prefix cache is filled.
    """
    language_model = load_language_model(config, device)
    targets = None if config.lora_targets == "all" else config.lora_targets
    shape = LoraShape(config.lora_r, config.lora_alpha, config.top_layers, targets)
    backbone = Backbone(language_model, shape, proofs=proofs_folder())
    texts = corpus.dataset.texts_with_names if config.names_in_support else corpus.dataset.texts
    token_ids = tokenize_prompts(backbone.tokenizer, texts, config.template, config.max_length)
    budget = config.memory_gb * 1e9 if config.memory_gb else usable_memory(backbone.device)
    theta = _fresh(backbone, config, seed=0)
    memory = memory_need(backbone, theta, token_ids, _most_utterances(config))
    cache = None
    if backbone.first_adapted > 0:
        cache = PrefixCache(backbone, token_ids, int(max(0, budget - memory.peak(0, 0)) * CACHE_SHARE), told)
        cache.share(Path(config.prefix_cache_dir).expanduser() if config.prefix_cache_dir else prefix_folder())
        memory = replace(memory, cache=cache.nbytes)
    engine = Engine(backbone, token_ids, cache)
    if HEADS[config.head].from_words is not None:
        engine.label_vectors = label_vectors_of(backbone, corpus.dataset.class_names, config.label_words)
    engine.tasks_in_flight = min(config.max_tasks_in_flight, memory.tasks_within(budget, config.tasks_per_step))
    return Workbench(config, corpus, engine, language_model, device, memory)


def _most_utterances(config: Config) -> int:
    """Utterances of one task whose activations are kept at once, in training or at meta-test."""
    n_query = config.n_way * config.k_query
    held = ALGORITHMS[config.algorithm].utterances_held(config.train_support_size, n_query)
    return max(held, config.support_size)


def fresh_initialisation(workbench: Workbench, seed: int) -> Adapters:
    """θ before meta-training: random LoRA A of this seed, B = 0 and a head of zeros."""
    return _fresh(workbench.engine.backbone, workbench.config, seed)


def _fresh(backbone: Backbone, config: Config, seed: int) -> Adapters:
    generator = torch.Generator().manual_seed(stream_seed(seed, "lora"))
    head = fresh_head(config.n_way, backbone.width, backbone.device)
    own = HEADS[config.head].own_parameters(config.n_way, backbone.width, backbone.device)
    return Adapters(backbone.fresh_lora(generator) | head | own)
