"""The grid → cells → cohorts; what is done, what is left, and whether it can work at all."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from reptile_scaling.baselines import BASELINES
from reptile_scaling.config import Config
from reptile_scaling.data.class_split import check_class_counts, check_class_sizes
from reptile_scaling.errors import InputError
from reptile_scaling.lab.executors import EXECUTORS
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.evaluation import inner_optimizer
from reptile_scaling.learning.inner_optimizers import INNER_OPTIMIZERS
from reptile_scaling.learning.meta_step import moves_head
from reptile_scaling.learning.outer_optimizers import OUTER_OPTIMIZERS
from reptile_scaling.learning.workbench import Corpus, open_corpus
from reptile_scaling.model.devices import choose_devices
from reptile_scaling.model.heads import HEADS
from reptile_scaling.model.label_words import MOST_SYMBOLS
from reptile_scaling.model.loading import check_model, check_quantization
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell, grid
from reptile_scaling.tracking.trackers import check_trackers


@dataclass(frozen=True)
class CohortJob:
    """Cells that train in lockstep."""

    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class BaselineJob:
    """One baseline on the shared test tasks."""

    name: str


Job = CohortJob | BaselineJob


@dataclass(frozen=True)
class Plan:
    """What a sweep will do, checked as far as that is possible without loading a model."""

    config: Config
    corpus: Corpus
    devices: tuple[str, ...]
    jobs: tuple[Job, ...]
    n_done: int

    def summary(self) -> list[str]:
        """The work in a few lines, for people."""
        config, dataset, split = self.config, self.corpus.dataset, self.corpus.split
        cells = grid(config)
        n_cells, levels = len(cells), ", ".join(dict.fromkeys(cell.level_name for cell in cells))
        return [
            f"{config.algorithm} on {config.model_name}: {config.task_shape}, "
            f"{config.k_query} query, {config.k_inner} inner steps, {config.num_meta_steps} meta-steps "
            f"of {config.meta_batch_size} tasks",
            *(f"note: {note}" for note in (*dataset.notes, *_notes(config))),
            f"{dataset.name}: {len(dataset.texts)} utterances; classes {len(split.train)} train, "
            f"{len(split.validation)} validation, {len(split.test)} test, disjoint",
            f"{levels} × {len(config.seeds)} seeds = {n_cells} cells, "
            f"{self.n_done} done; {config.num_meta_test_tasks} shared test tasks; on {', '.join(self.devices)}",
        ]


def _notes(config: Config) -> Iterator[str]:
    """What is allowed and will surprise."""
    head = HEADS[config.head]
    has_equal_rows = head.reset is not None or (head.is_meta_learned and not moves_head(config))
    if config.algorithm == "reptile" and config.k_inner == 1 and has_equal_rows:
        yield (
            "from a head of equal rows the first inner step moves no LoRA weight, so that Reptile with k_inner = 1 "
            "learns nothing: set k_inner to 2 or more"
        )


def plan_sweep(config: Config, run: RunDirectory) -> Plan:
    """Checks the input and lists the work that is left. Raises InputError for anything that cannot work."""
    assert config.class_splits is None, config.class_splits
    devices = choose_devices(config.devices)
    _check_places(config, devices)
    check_trackers(config.track)
    _check_name("algorithm", config.algorithm, ALGORITHMS)
    _check_name("head", config.head, HEADS)
    _check_name("inner_optimizer", config.inner_optimizer, ("auto", *INNER_OPTIMIZERS))
    _check_name("meta_optimizer", config.meta_optimizer, OUTER_OPTIMIZERS)
    for name in config.baselines or ():
        _check_name("baselines", name, BASELINES)
    _check_algorithm(config)
    corpus = open_corpus(config)
    if config.names_in_support:
        _ = corpus.dataset.texts_with_names  # refuses a class without a word
    for level in config.level_configs:
        check_model(level)
        check_class_sizes(corpus.dataset, level)
        check_class_counts(corpus.dataset, corpus.split, level)
    cells = grid(config)
    n_done = sum(run.cell(cell).is_done for cell in cells)
    measured = run.read_baselines_of(len(config.seeds))
    baselines = [BaselineJob(name) for name in baseline_names(config) if name not in measured]
    return Plan(config, corpus, devices, (*_cohorts(cells, config, run), *baselines), n_done)


def baseline_names(config: Config) -> list[str]:
    """What a run measures besides its cells, in the order of BASELINES: those that are named, else all that apply.

    InputError for a name that means nothing for this model and algorithm.
    """
    applying = [name for name, baseline in BASELINES.items() if baseline.applies(config.level_configs[-1])]
    if config.baselines is None:
        return applying
    for name in config.baselines:
        if name not in applying:
            raise InputError(
                f"baselines names {name!r}, which does not apply to algorithm {config.algorithm!r} on "
                f"{config.level_configs[-1].model_name}: leave it out"
            )
    return [name for name in applying if name in config.baselines]


def _check_name(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise InputError(f"{key} = {name!r} is unknown: use {' or '.join(known)}")


def _check_places(config: Config, devices: Sequence[str]) -> None:
    """Raises InputError for an executor that is unknown, or that cannot use these devices."""
    _check_name("executor", config.executor, EXECUTORS)
    if not EXECUTORS[config.executor].finds_devices:
        for device in devices:
            check_quantization(config, device)
    elif config.devices != ("auto",):
        named = ", ".join(config.devices)
        raise InputError(f"devices = {named}, but executor {config.executor!r} places workers itself: use auto")


def _check_algorithm(config: Config) -> None:
    """Raises InputError for settings that an algorithm or a head cannot work with."""
    algorithm = ALGORITHMS[config.algorithm]
    if algorithm.differentiates_inner_loop:
        # At B = 0 a gradient is exactly zero, where the derivative of g / √g² is infinite.
        wanted = {"inner_optimizer": "sgd", "lora_dropout": 0.0, "load_in_8bit": False, "load_in_4bit": False}
        for key, value in wanted.items():
            if (found := getattr(config, key)) not in (value, "auto"):
                raise InputError(
                    f"{key} = {found!r} cannot work with algorithm {config.algorithm!r}, which differentiates the "
                    f"inner loop: set {key} to {value!r}"
                )
    head = HEADS[config.head]
    if algorithm.starts_from_support and head.from_support is None:
        fitting = [name for name, one in HEADS.items() if one.from_support is not None]
        raise InputError(
            f"head = {config.head!r} cannot work with algorithm {config.algorithm!r}, whose heads are computed from "
            f"support sets: set head to {' or '.join(fitting)}"
        )
    if config.test_steps == 0 and head.from_support is None and head.from_words is None:
        raise InputError(
            f"k_inner_test = 0 leaves every task at chance, since head {config.head!r} knows no class before its first "
            "step: set it to 1 or more, or set head to cosine"
        )
    if config.inner_rates == "learned" and not algorithm.has_inner_loop:
        raise InputError(
            f"inner_rates = 'learned' needs an inner loop in training, which algorithm {config.algorithm!r} has not: "
            "set it to fixed"
        )
    if config.inner_rates == "learned" and config.keep_second_moments:
        raise InputError("inner_rates = 'learned' starts every task afresh: set keep_second_moments to false")
    if config.keep_second_moments and (inner_optimizer(config) != "adam" or not algorithm.keeps_moments):
        raise InputError(
            f"keep_second_moments = True needs an inner Adam that goes on from task to task, which algorithm "
            f"{config.algorithm!r} with {inner_optimizer(config)!r} has not: set it to false"
        )
    if head.from_words is not None and config.label_words == "symbols" and config.n_way > MOST_SYMBOLS:
        raise InputError(
            f"n_way = {config.n_way} is more than the {MOST_SYMBOLS} letters there are: set label_words to names"
        )


def _cohorts(cells: Sequence[Cell], config: Config, run: RunDirectory) -> list[CohortJob]:
    """What is left of the grid's cohorts, those with most to do first; seed by seed, so that a curve comes early.

    The grid alone decides which cells train together, so a resumed cell meets the neighbours it had. Cells that differ
    in more than N and seed train apart.
    """
    size = config.cells_per_cohort
    alike = [
        sorted(of_level, key=lambda cell: cell.seed) for _, of_level in groupby(cells, key=lambda cell: cell.value)
    ]
    whole = [level[i : i + size] for level in alike for i in range(0, len(level), size)]
    left = [tuple(cell for cell in cohort if not run.cell(cell).is_done) for cohort in whole]
    return [CohortJob(cohort) for cohort in sorted(left, key=len, reverse=True) if cohort]
