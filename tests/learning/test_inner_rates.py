"""Learned inner rates against a hand-written twin on PEFT's modules, against finite differences, and through files."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from test_algorithms import N_TASKS, Twin, episodes_of, starts
from torch import Tensor

from reptile_scaling.config import make_config
from reptile_scaling.data.dataset import make_dataset
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning import inner_loop
from reptile_scaling.learning.algorithms import ALGORITHMS, fomaml, maml, reptile
from reptile_scaling.learning.budget import Start, choose_budget, read_with_budget
from reptile_scaling.learning.cell_training import begin_cell
from reptile_scaling.learning.evaluation import test_loop as loop_of
from reptile_scaling.learning.evaluation import validation_episodes
from reptile_scaling.learning.examples import Examples
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.inner_optimizers import DIRECTIONS, make_optimizer
from reptile_scaling.learning.inner_rates import first_order, split_rates
from reptile_scaling.learning.meta_step import batch_gradients
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.adapters import HEAD_NAMES, LOG_RATE, Adapters, stack_adapters
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.peft_io import load_adapter
from reptile_scaling.report.curves import draw_inner_rates
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.use.labeller import adapt_to_labels, open_labeller
from toy_models import encode

STEPS = 3
Parameters = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _dataset(toy_dataset) -> None:
    import test_algorithms

    test_algorithms.encoder_dataset[:] = [toy_dataset]


def rated(theta: Adapters, adapts: str, n_steps: int, seed: int) -> Adapters:
    """θ with a rate of its own for each step and matrix, around 0.2."""
    generator = torch.Generator().manual_seed(seed)
    rates = {
        name + LOG_RATE: np.log(0.2) + 0.5 * torch.randn(n_steps, generator=generator)
        for name in theta.tensors
        if adapts == "all" or name in HEAD_NAMES
    }
    return Adapters(theta.tensors | rates)


def adapted(
    twin: Twin, theta: Parameters, rates: Parameters, episode: Episode, direction: str, exact: bool
) -> Parameters:
    """The inner loop unrolled; to first order no direction moves with the rates."""
    phi, n_steps = dict(theta), len(next(iter(rates.values())))
    directions = DIRECTIONS[direction]()
    for k in range(n_steps):
        at = phi if exact else {name: x.detach().requires_grad_() for name, x in phi.items()}
        slopes = torch.autograd.grad(twin.loss(at, episode.support), [at[n] for n in rates], create_graph=exact)
        along = slopes if exact else directions(slopes)
        phi |= {name: phi[name] - rates[name][k].exp() * u for name, u in zip(rates, along, strict=True)}
    return phi


def doubled(theta: Adapters) -> tuple[Parameters, Parameters]:
    own, rates = split_rates(theta)
    assert rates is not None
    return tuple({n: x.double().requires_grad_() for n, x in part.tensors.items()} for part in (own, rates))


def gradients(name: str, engine, thetas: list[Adapters], direction: str, n_steps: int = STEPS) -> Adapters:
    loop = InnerLoop(n_steps, 1e9, direction, adapts=ALGORITHMS[name].adapts)  # the one rate must not be used
    batch = TaskBatch(stack_adapters(thetas), episodes_of(engine), loop, owners=[0, 0, 1])
    return batch_gradients(engine, ALGORITHMS[name], batch).gradients


@pytest.mark.parametrize(
    "name, direction",
    [("reptile", "sgd"), ("reptile", "sign"), ("fomaml", "adam"), ("fomaml", "sgd"), ("maml", "sgd"), ("anil", "sgd")],
)
def test_slopes_of_the_rates_equal_the_twin(name: str, direction: str, tokenizer, toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, 2)), toy_dataset.texts)
    twin, exact = Twin("llama", engine, len(tokenizer)), name in ("maml", "anil")
    thetas = [rated(theta, ALGORITHMS[name].adapts, STEPS, t) for t, theta in enumerate(starts(engine, False))]
    if direction != "sgd":  # steps of the size of the rate itself
        thetas = [Adapters({n: x - 4 if n.endswith(LOG_RATE) else x for n, x in t.tensors.items()}) for t in thetas]
    found = gradients(name, engine, thetas, direction)
    episode = episodes_of(engine)[1]
    own, rates = doubled(thetas[1])
    loss = twin.loss(adapted(twin, own, rates, episode, direction, exact), episode.query)
    expected = torch.stack(torch.autograd.grad(loss, list(rates.values())))
    ours = torch.stack([found.tensors[n + LOG_RATE][1] for n in rates]).double()
    assert expected.norm() > 0
    # Near a gradient of zero Adam's direction and the sign depend on the last bit.
    tolerance = 2e-3 if direction == "sgd" else 2e-2
    assert (ours - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", ["fomaml", "maml"])
def test_slopes_of_one_step_equal_finite_differences(name: str, tokenizer, toy_dataset, language_model) -> None:
    """With one inner step its direction does not depend on the rates, so first-order terms are all there are."""
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    twin = Twin("llama", engine, len(tokenizer))
    thetas = [rated(theta, "all", 1, t) for t, theta in enumerate(starts(engine, False))]
    found, episode, h = gradients(name, engine, thetas, "sgd", 1), episodes_of(engine)[2], 1e-3
    own, rates = doubled(thetas[2])

    def loss(shift: Parameters) -> float:
        moved = {n: x.detach() + shift.get(n, 0) for n, x in rates.items()}
        return float(twin.loss(adapted(twin, own, moved, episode, "sgd", False), episode.query).detach())

    some = list(rates)[::3]
    slopes = torch.stack([found.tensors[matrix + LOG_RATE][2, 0] for matrix in some]).double()
    shifts = [{matrix: torch.tensor(h).double()} for matrix in some]
    differences = [(loss(shift) - loss({n: -x for n, x in shift.items()})) / (2 * h) for shift in shifts]
    # Single precision on our side: each slope is a sum over a matrix, in which terms cancel.
    assert (slopes - torch.tensor(differences).double()).norm() <= 2e-3 * slopes.norm()


class Plain(Examples):
    """Losses of two tasks in closed form, in double precision, in place of a support or query set.

    ½ (w − c)ᵀ A (w − c) + b·w of each task; with A = 0 no direction moves with the rates.
    """

    n_tasks, labels_S = 2, torch.zeros(1, dtype=torch.int64)

    def __init__(self, bend: Tensor, seed: int) -> None:
        self._bend = bend
        self._centre, self._slope = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(seed)).double()

    def losses(self, phi: Adapters, chosen: None = None, dropout: None = None) -> Tensor:
        apart = phi.tensors["w"] - self._centre
        return (apart @ self._bend * apart).sum(1) / 2 + (self._slope * phi.tensors["w"]).sum(1)


NO_ENGINE = Engine.__new__(Engine)
STRAIGHT, BENT = torch.zeros(3, 3).double(), torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]]).double()


@pytest.mark.parametrize(
    "name, direction, bend",
    [
        ("maml", "sgd", BENT), ("fomaml", "sgd", STRAIGHT), ("fomaml", "adam", STRAIGHT), ("fomaml", "sign", STRAIGHT),
        ("reptile", "adam", STRAIGHT),
    ],
)  # fmt: skip
def test_slopes_equal_finite_differences_in_double_precision(
    name: str, direction: str, bend: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step's: under a support loss that bends only where the algorithm sees it, as `maml` does."""
    support, query = Plain(bend, 1), Plain(BENT, 2)
    for module in (inner_loop, maml, fomaml, reptile):
        monkeypatch.setattr(module, "support_examples", lambda *_: support, raising=False)
        monkeypatch.setattr(module, "query_examples", lambda *_: query, raising=False)
    rates = torch.tensor([[0.1, 0.2, 0.15], [0.3, 0.05, 0.1]]).double().log()

    def batch(log_rates: Tensor) -> TaskBatch:
        theta = {"w": torch.tensor([[1.0, -2.0, 0.5], [0.2, 0.4, -1.0]]).double(), "w" + LOG_RATE: log_rates}
        return TaskBatch(Adapters(theta), (), InnerLoop(STEPS, 1e9, direction))

    def losses_T(log_rates: Tensor) -> Tensor:
        return query.losses(inner_loop.adapt(NO_ENGINE, batch(log_rates)).adapters)

    found = ALGORITHMS[name].task_gradients(NO_ENGINE, batch(rates)).gradients.tensors["w" + LOG_RATE]
    for k in range(STEPS):
        shift = torch.zeros_like(rates)
        shift[:, k] = 1e-5
        expected_T = (losses_T(rates + shift) - losses_T(rates - shift)) / 2e-5
        # The square of the shift and 1e-16 / 1e-5 of rounding.
        torch.testing.assert_close(found[:, k], expected_T, rtol=1e-8, atol=1e-9)


def test_slopes_of_a_scalar_are_those_of_a_matrix_of_one_entry() -> None:
    """The scale of head `cosine` and the factor of `words_prototype` are one number of each task."""
    generator = torch.Generator().manual_seed(0)
    g, u, rates = torch.randn(2, generator=generator), torch.randn(3, 2, generator=generator), torch.zeros(2, 3)
    of_scalar = first_order(Adapters({"w": g}), [[own] for own in u], Adapters({"w": rates}))
    of_matrix = first_order(
        Adapters({"w": g[:, None, None]}), [[own[:, None, None]] for own in u], Adapters({"w": rates})
    )
    assert torch.equal(of_scalar["w" + LOG_RATE], -(g * u).T)
    assert torch.equal(of_matrix["w" + LOG_RATE], of_scalar["w" + LOG_RATE])


def test_first_order_slopes_are_not_those_of_a_support_loss_that_bends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `fomaml` leaves out is there to be left out; the last step's slope is exact all the same."""
    support, query = Plain(BENT, 1), Plain(BENT, 2)
    for module in (inner_loop, maml, fomaml):
        monkeypatch.setattr(module, "support_examples", lambda *_: support, raising=False)
        monkeypatch.setattr(module, "query_examples", lambda *_: query, raising=False)
    theta = {"w": torch.ones(2, 3).double(), "w" + LOG_RATE: torch.full((2, STEPS), 0.1).double().log()}
    batch = TaskBatch(Adapters(theta), (), InnerLoop(STEPS, 1e9, "sgd"))
    found = [ALGORITHMS[n].task_gradients(NO_ENGINE, batch).gradients for n in ("maml", "fomaml")]
    exact, first = (gradients.tensors["w" + LOG_RATE] for gradients in found)
    torch.testing.assert_close(first[:, -1], exact[:, -1])
    assert ((first - exact)[:, 0].abs() > 0.1 * exact[:, 0].abs()).all()


def test_equal_rates_are_the_fixed_loop_and_later_steps_take_the_last(toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    theta = stack_adapters(starts(engine, False))
    for direction in DIRECTIONS:
        rates = {n + LOG_RATE: torch.full((N_TASKS, 2), 0.01).log() for n in theta.tensors}
        loop = InnerLoop(4, 0.01, direction)
        fixed = adapt_in_groups(engine, TaskBatch(theta, episodes_of(engine), loop))
        learned = adapt_in_groups(
            engine, TaskBatch(Adapters(theta.tensors | rates), episodes_of(engine), replace(loop, learning_rate=9.0))
        )
        for name, tensor in fixed.adapters.tensors.items():
            torch.testing.assert_close(learned.adapters.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_each_task_has_its_own_rates() -> None:
    """w = 1, gradient 2: steps of 0.1 and 0.2, then 0.3 and 0.4, of which the third is another 0.3 and 0.4."""
    w, rates = Adapters({"w": torch.ones(2, 1)}), Adapters({"w": torch.tensor([[0.1, 0.3], [0.2, 0.4]]).log()})
    optimizer = make_optimizer("sgd", w, 9.0, None, rates)
    for _ in range(3):
        optimizer.step([torch.full((2, 1), 2.0)])
    torch.testing.assert_close(w.tensors["w"], torch.tensor([[1 - 2 * 0.7], [1 - 2 * 1.0]]))


@pytest.fixture(scope="module")
def run(toy_settings, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished sweep whose rates have moved."""
    run = RunDirectory(tmp_path_factory.mktemp("rates") / "run")
    settings = {
        **toy_settings, "n_tasks_list": [2], "seeds": [0], "algorithm": "fomaml", "inner_rates": "learned",
        "select": "last",
    }  # fmt: skip
    run_sweep(plan_sweep(make_config(settings), run), run)
    return run


def test_rates_go_with_the_cell_and_its_adapter(run: RunDirectory) -> None:
    cell = run.cell(run.cells()[0])
    _, rates = split_rates(load_adapter(cell.adapter_folder, torch.device("cpu")))
    assert rates is not None
    told = {(row.matrix, row.inner_step): row.rate for row in cell.read_inner_rates()}
    assert len(told) == 2 * len(rates.tensors)
    for name, log_rates in rates.tensors.items():
        assert [told[name, k] for k in (1, 2)] == pytest.approx(log_rates.exp().tolist())
    # Four meta-steps of at most 3 % each.
    changes = [abs(np.log(rate / 0.01)) for rate in told.values()]
    assert 0.01 < max(changes) <= 4 * 0.031


def test_budget_of_learned_rates_is_a_factor_on_all_of_them(toy_settings) -> None:
    """Equal rates, learned or not, want the same factor and give the same losses."""
    config = make_config({**toy_settings, "inner_optimizer": "sgd"})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    theta, loop = fresh_initialisation(workbench, 0), replace(loop_of(config), learning_rate=0.01)
    rates = {name + LOG_RATE: torch.full((1,), 0.01).log() for name in theta.tensors}
    starts = Start(theta), Start(Adapters(theta.tensors | rates))
    loops = loop, replace(loop, learning_rate=1e9)
    tasks, steps = validation_episodes(workbench), (1, 3)
    fixed, learned = (
        choose_budget(workbench.engine, start, tasks, own, steps) for start, own in zip(starts, loops, strict=True)
    )
    assert {n: rate / 0.01 for n, rate in fixed.rates.items()} == pytest.approx(dict(learned.rates))
    losses = pytest.approx(dict(learned.validation_losses), abs=1e-5)
    assert learned.rates[1] != 1 and fixed.validation_losses == losses
    read = read_with_budget(workbench.engine, starts[1], tasks, loops[1], learned)
    assert {n: float(r.loss.mean()) for n, r in read.items()} == losses


@pytest.mark.parametrize("select", ["best", "last", "mean"])
def test_selected_rates_are_those_of_the_selected_point(select: str, toy_settings, tmp_path) -> None:
    """`mean` is the running mean of log-rates too, also when it is resumed from its checkpoint."""
    settings = {
        **toy_settings, "n_tasks_list": [2], "seeds": [0], "algorithm": "fomaml", "inner_rates": "learned",
        "select": select, "num_meta_steps": 3, "eval_interval": 1, "baselines": [],
    }  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    run_sweep(plan_sweep(config := make_config(settings), run), run)
    cell = run.cell(run.cells()[0])
    theta = load_adapter(cell.adapter_folder, torch.device("cpu"))
    told = {(row.matrix, row.inner_step): row.rate for row in cell.read_inner_rates()}
    for name, own in split_rates(theta)[1].tensors.items():
        assert [told[name, k + 1] for k in range(len(own))] == pytest.approx(own.exp().tolist())
    workbench = open_workbench(config, open_corpus(config), "cpu")
    training = begin_cell(workbench, cell, cell.read_checkpoints()[0])
    resumed = training.start
    assert resumed.theta.tensors.keys() == theta.tensors.keys()
    for name, tensor in resumed.theta.tensors.items():
        torch.testing.assert_close(tensor, theta.tensors[name])
    _, last = split_rates(training.state.theta)
    moved = [float((x - theta.tensors[n + LOG_RATE]).abs().max()) for n, x in last.tensors.items()]
    assert (max(moved) == 0) == (resumed.meta_step == 3 and select != "mean")


def test_flipped_rates_are_refused(run: RunDirectory, tmp_path: Path) -> None:
    cell = run.cell(run.cells()[0])
    copied = Path(shutil.copytree(cell.path, tmp_path / "cell"))
    for file, read in (
        (copied / "inner_rates.csv", replace(cell, path=copied).read_inner_rates),
        (copied / "adapter" / "inner_rates.safetensors", lambda: load_adapter(copied / "adapter", torch.device("cpu"))),
    ):
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(bytes(content))
        with pytest.raises(InputError, match=re.escape(file.name)):
            read()


def test_peft_loads_an_adapter_with_rates(run: RunDirectory, model_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = run.cell(run.cells()[0]).adapter_folder
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), folder)
    assert any(float(p.abs().sum()) > 0 for n, p in model.named_parameters() if "lora_B" in n)
    assert "inner_rates.safetensors" in {file.name for file in folder.iterdir()}


def test_heat_map_has_a_mark_for_each_rate(run: RunDirectory) -> None:
    chart = draw_inner_rates(run)
    assert chart is not None
    rates = run.cell(run.cells()[0]).read_inner_rates()
    assert len(chart.rows) == len(rates) and chart.inline().count('class="mark"') == len(rates)


def test_adapting_to_labels_uses_the_rates(run: RunDirectory, toy_dataset, tmp_path) -> None:
    adapter = run.cell(run.cells()[0]).adapter_folder
    rows = [
        (toy_dataset.texts[u], toy_dataset.class_names[c])
        for c, n in ((0, 1), (2, 2), (3, 2), (5, 1))
        for u in toy_dataset.utterances_by_class[c][:n]
    ]
    support = make_dataset("support", rows)
    labeller, done = adapt_to_labels(adapter, support, tmp_path / "out", steps=4)
    assert done.steps == 4 and not any(n.endswith(LOG_RATE) for n in labeller.adapters.tensors)
    again = open_labeller(tmp_path / "out")
    texts = list(support.texts)
    np.testing.assert_allclose(again.predict(texts), labeller.predict(texts), atol=1e-6)
    still = Path(shutil.copytree(adapter, tmp_path / "still"))
    (still / "SHA256SUMS").unlink()  # the change is ours
    rates = safetensors.torch.load_file(still / "inner_rates.safetensors")
    safetensors.torch.save_file({n: x - 30 for n, x in rates.items()}, still / "inner_rates.safetensors")
    resting, _ = adapt_to_labels(still, support, tmp_path / "resting")
    np.testing.assert_allclose(resting.predict(texts), 1 / 4, atol=1e-4)  # rates of nothing leave the first head
    with pytest.raises(InputError, match="--lr 0.1 would replace the rates that .* has learned: leave it out"):
        adapt_to_labels(adapter, support, tmp_path / "other", learning_rate=0.1)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"algorithm": "protonet", "head": "cosine"}, "needs an inner loop.*'protonet' has not: set it to fixed"),
        ({"keep_second_moments": True}, "inner_rates = 'learned' starts every task afresh: set keep_second_moments"),
    ],
)
def test_rates_that_cannot_be_learned_are_refused(settings, complaint: str, toy_settings, tmp_path) -> None:
    with pytest.raises(InputError, match=complaint):
        config = make_config({**toy_settings, "inner_rates": "learned", **settings})
        plan_sweep(config, RunDirectory(tmp_path))
