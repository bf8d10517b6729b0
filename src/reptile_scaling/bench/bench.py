"""The same work by several programs in one process, interleaved: tasks per second, memory, and the equivalence error.

The work is `steps` inner steps on each of T tasks of real utterances. Interleaving and medians keep a noisy machine
from favouring one variant; ratios are what to read.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from reptile_scaling.bench.floor import floor_seconds, inner_step_products
from reptile_scaling.bench.memory import with_peak_memory
from reptile_scaling.bench.peers import MakeOptimizer, PeerTask, SequentialPeft
from reptile_scaling.bench.timing import interleaved_seconds
from reptile_scaling.bench.vmap_peer import VmapLora
from reptile_scaling.config import Config, make_config
from reptile_scaling.data.episodes import Episode, training_pool
from reptile_scaling.learning.evaluation import training_loop
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.inner_optimizers import ADAM_BETA2, ADAM_EPSILON
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.learning.workbench import Corpus, Workbench, fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.devices import choose_dtype
from reptile_scaling.model.loading import load_language_model
from reptile_scaling.model.peft_io import lora_config

# What people's loops pad to.
PEER_LENGTH = 64
TOP_LAYERS = "top-4"
REFERENCE, TOP_REFERENCE = "sequential_peft", "sequential_peft_topk"
ALL_LAYER_PEERS = ("sequential_peft", "compiled_peft", "vmap_lora")
"""That do exactly what the engine does, and no more."""


@dataclass(frozen=True)
class Variant:
    """One program on the work. `exact` is False where precision differs from the reference's fp32."""

    name: str
    label: str
    precision: str
    exact: bool
    tasks_per_s: float
    tokens_per_s: float
    """Tokens of the utterances, padding not counted."""
    peak_memory_bytes: int
    """Working memory of the warm-up run beyond the weights: adapters, optimiser state and activations."""
    predicted_memory_bytes: float | None
    """The same by the formula that `run` prints; None for peers."""
    max_abs_loss_diff: float
    fraction_of_floor: float | None


@dataclass(frozen=True)
class _Program:
    """`run` does the whole work and returns each task's support losses, step by step."""

    name: str
    label: str
    precision: str
    reference: str
    """The program whose losses it must reproduce."""
    run: Callable[[], list[list[float]]]
    floor: float | None
    """Seconds of the whole work at the matrix rate; None for peers."""
    predicted_memory: float | None = None
    may_fail: bool = False
    """Whether a machine without what it needs leaves it out."""


@dataclass(frozen=True)
class Work:
    """How much of it."""

    n_tasks: int
    inner_steps: int
    repeats: int
    compiled_peer: bool
    """Whether sequential PEFT is also compiled, which takes minutes."""


QUICK = Work(n_tasks=2, inner_steps=2, repeats=1, compiled_peer=False)
FULL = Work(n_tasks=4, inner_steps=5, repeats=3, compiled_peer=True)


def bench_work(settings: dict[str, Any], work: Work, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Runs all programs and returns the object of `bench --json`; `tell` hears a line of each as it ends."""
    config = make_config({**settings, "lora_layers": "all", "dtype": "float32", "k_inner": work.inner_steps})
    corpus = open_corpus(config)
    programs, n_tokens = _programs(config, corpus, work)
    warm_up, first_seconds, failed = {}, dict[str, float](), dict[str, str]()
    for program in programs:
        began = time.perf_counter()
        try:
            warm_up[program.name] = with_peak_memory(program.run, torch.device("cpu"))
        except Exception as error:
            if not program.may_fail:
                raise
            failed[program.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            tell(f"{program.label}: does not run here ({failed[program.name]})")
            continue
        first_seconds[program.name] = time.perf_counter() - began
        tell(_first_line(program, first_seconds))
    programs = [program for program in programs if program.name in warm_up]
    losses = {name: torch.tensor(result) for name, (result, _) in warm_up.items()}
    seconds = interleaved_seconds({program.name: program.run for program in programs}, work.repeats)
    variants = [
        Variant(
            name=p.name,
            label=p.label,
            precision=p.precision,
            exact=p.precision == "float32",
            tasks_per_s=work.n_tasks / seconds[p.name],
            tokens_per_s=n_tokens / seconds[p.name],
            peak_memory_bytes=warm_up[p.name][1],
            predicted_memory_bytes=p.predicted_memory,
            max_abs_loss_diff=float((losses[p.name] - losses[p.reference]).abs().max()),
            fraction_of_floor=p.floor / seconds[p.name] if p.floor is not None else None,
        )
        for p in programs
    ]
    return {
        "machine": describe_machine(),
        "work": _describe(config, work.n_tasks, work.repeats, n_tokens),
        "variants": [asdict(v) for v in variants],
        "failed": failed,
        **_ratios(seconds, {p.name: p.floor for p in programs}),
    }


def _first_line(program: _Program, seconds: dict[str, float]) -> str:
    """What a program's first, unrepeated run says."""
    line = f"{program.label}: {seconds[program.name]:.1f} s"
    if program.floor is not None and program.reference in seconds:
        line += f", {seconds[program.reference] / seconds[program.name]:.1f} times sequential PEFT in one run of each"
    return line


def _ratios(seconds: dict[str, float], floors: dict[str, float | None]) -> dict[str, float]:
    """The figures of the contract: how many times faster the engine is, at which precision."""
    engine_seconds, engine_floor = seconds["engine_all_fp32"], floors["engine_all_fp32"]
    assert engine_floor is not None
    best_peer = min(value for name, value in seconds.items() if name in ALL_LAYER_PEERS)
    return {
        "ratio_vs_best_peer": best_peer / engine_seconds,
        "ratio_vs_sequential_peft": seconds["sequential_peft"] / engine_seconds,
        "ratio_vs_padded_loop": seconds["padded_loop"] / engine_seconds,
        "fraction_of_floor": engine_floor / engine_seconds,
        "ratio_topk_vs_sequential_peft": seconds["sequential_peft_topk"] / seconds["engine_topk_fp32"],
        "ratio_native_vs_best_peer": best_peer / seconds["engine_all_native"],
        "ratio_native_vs_sequential_peft": seconds["sequential_peft"] / seconds["engine_all_native"],
        "ratio_native_vs_padded_loop": seconds["padded_loop"] / seconds["engine_all_native"],
    }


def _programs(config: Config, corpus: Corpus, work: Work) -> tuple[list[_Program], int]:
    """Peers and engines on the first tasks of seed 0, from the same weights and θ; and the tokens of the whole work."""
    episodes = training_pool(corpus.dataset, corpus.split, config, 0).episodes(work.n_tasks)
    top = config.model_copy(update={"lora_layers": TOP_LAYERS})
    native = choose_dtype("auto", "cpu")
    engine_all = open_workbench(config, corpus, "cpu")
    engine_top = open_workbench(top, corpus, "cpu")
    native_config = config.model_copy(update={"dtype": str(native).removeprefix("torch.")})
    engine_native = open_workbench(native_config, corpus, "cpu")
    theta = {"all": fresh_initialisation(engine_all, 0), "top": fresh_initialisation(engine_top, 0)}
    ids = engine_all.engine.token_ids
    n_tokens = config.k_inner * sum(len(ids[u]) for episode in episodes for u in episode.support.ravel())
    all_peer = partial(run_peer, open_peer(engine_all), theta["all"], episodes, ids, config)
    top_peer = partial(run_peer, open_peer(engine_top), theta["top"], episodes, ids, config)
    vmapped = partial(_run_vmap, _open_vmap(engine_all), theta["all"], episodes, ids, config)
    one_by_one = "PEFT, one task at a time"
    # First those whose ratio is asked for first.
    programs = [
        _peer("sequential_peft", f"{one_by_one}, padded to its batch", partial(all_peer, None)),
        _engine("engine_all_fp32", "engine, all layers", engine_all, theta["all"], episodes),
        _engine("engine_all_native", "engine, all layers, native precision", engine_native, theta["all"], episodes),
        _peer("sequential_peft_topk", f"{one_by_one}, {TOP_LAYERS}", partial(top_peer, None), TOP_REFERENCE),
        _engine("engine_topk_fp32", f"engine, {TOP_LAYERS}, cache", engine_top, theta["top"], episodes, TOP_REFERENCE),
        _peer("vmap_lora", "torch.func.vmap, all tasks padded to the longest prompt", vmapped, may_fail=True),
        _peer("padded_loop", f"{one_by_one}, padded to 64, query forward", partial(all_peer, PEER_LENGTH)),
    ]
    if work.compiled_peer:
        compiled = open_peer(engine_all)
        compiled.compile()
        run = partial(run_peer, compiled, theta["all"], episodes, ids, config, None)
        programs.append(_peer("compiled_peft", f"{one_by_one}, torch.compile", run, may_fail=True))
    return programs, n_tokens


def _open_vmap(engine: Workbench) -> VmapLora:
    backbone = engine.engine.backbone
    model = load_language_model(engine.config, "cpu").model
    return VmapLora(model, list(backbone.sites), backbone.lora.alpha / backbone.lora.rank)


def _run_vmap(
    peer: VmapLora, theta: Adapters, episodes: Sequence[Episode], ids: Sequence[Sequence[int]], config: Config
) -> list[list[float]]:
    return peer.adapt(theta, [peer_task(episode, ids) for episode in episodes], config.k_inner, stock_adam(config))


def _peer(
    name: str, label: str, run: Callable[[], list[list[float]]], reference: str = REFERENCE, *, may_fail: bool = False
) -> _Program:
    return _Program(name, label, "float32", reference, run, floor=None, may_fail=may_fail)


def _engine(
    name: str,
    label: str,
    workbench: Workbench,
    theta: Adapters,
    episodes: Sequence[Episode],
    reference: str = REFERENCE,
) -> _Program:
    """The engine with all tasks in one forward, and its floor."""
    config, backbone = workbench.config, workbench.engine.backbone
    loop = training_loop(config)
    batch = workbench.engine.prepare([episode.support for episode in episodes]).packed
    step_floor, _ = floor_seconds(backbone, inner_step_products(backbone, len(batch.token_ids), len(batch.lengths)))

    memory = replace(
        workbench.memory, program=0, weights=0, cache=0, tokens_per_task=len(batch.token_ids) / len(episodes)
    )

    def run() -> list[list[float]]:
        workbench.engine.tasks_in_flight = len(episodes)
        losses = adapt_in_groups(workbench.engine, TaskBatch(theta.repeated(len(episodes)), episodes, loop)).losses
        return [[float(x) for x in row] for row in losses.T]

    precision = str(backbone.dtype).removeprefix("torch.")
    return _Program(
        name,
        label,
        precision,
        reference,
        run,
        floor=step_floor * loop.steps,
        predicted_memory=memory.peak(len(episodes), len(episodes)),
    )


def open_peer(workbench: Workbench) -> SequentialPeft:
    """PEFT on a model of its own with the engine's LoRA."""
    model = load_language_model(workbench.config, "cpu").model
    return SequentialPeft(model, lora_config(workbench.engine.backbone, workbench.config.model_name))


def run_peer(
    peer: SequentialPeft,
    theta: Adapters,
    episodes: Sequence[Episode],
    token_ids: Sequence[Sequence[int]],
    config: Config,
    pad_to: int | None,
) -> list[list[float]]:
    """Each task's support losses; the padded loop also runs its query set forward, as people's loops do."""
    losses = []
    for episode in episodes:
        task = peer_task(episode, token_ids)
        losses.append(peer.adapt(theta, task, config.k_inner, stock_adam(config), pad_to)[1])
        if pad_to is not None:
            with torch.no_grad():
                peer.features([token_ids[u] for u in episode.query.ravel()], pad_to)
    return losses


def peer_task(episode: Episode, token_ids: Sequence[Sequence[int]]) -> PeerTask:
    """A support set as peers take it."""
    labels = slots(episode.support, torch.device("cpu")).tolist()
    return PeerTask([token_ids[u] for u in episode.support.ravel()], labels)


def stock_adam(config: Config) -> MakeOptimizer:
    """torch's own, with the inner loop's settings."""
    return partial(torch.optim.Adam, lr=config.inner_lr, betas=(0.0, ADAM_BETA2), eps=ADAM_EPSILON)


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": capabilities.get("cpu_name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bfloat16": choose_dtype("auto", "cpu") == torch.bfloat16,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _describe(config: Config, n_tasks: int, repeats: int, n_tokens: int) -> dict[str, Any]:
    return {
        "model": config.model_name,
        "dataset": config.dataset,
        "template": config.template,
        "n_tasks": n_tasks,
        "inner_steps": config.k_inner,
        "support_utterances": config.train_support_size,
        "support_tokens_per_task": n_tokens / n_tasks / config.k_inner,
        "repeats": repeats,
    }
