"""Meta-gradients against a twin written by hand: PEFT's own modules, one task at a time, all kept for autograd."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor

import reptile_scaling.learning.cohort as cohort
from reptile_scaling.config import make_config
from reptile_scaling.data.episodes import Episode, TaskPool
from reptile_scaling.errors import InputError
from reptile_scaling.lab.plan import plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.algorithms import ALGORITHMS
from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.algorithms.joint import CLASS_BIAS, CLASS_WEIGHT, class_head
from reptile_scaling.learning.inner_loop import adapt_in_groups
from reptile_scaling.learning.inner_optimizers import make_optimizer
from reptile_scaling.learning.meta_step import batch_gradients, meta_step
from reptile_scaling.learning.outer_optimizers import OUTER_OPTIMIZERS
from reptile_scaling.learning.task_batch import InnerLoop, TaskBatch
from reptile_scaling.learning.workbench import fresh_initialisation, open_corpus, open_workbench
from reptile_scaling.model.adam_moments import AdamMoments
from reptile_scaling.model.adapters import (
    HEAD_BIAS,
    HEAD_LOG_SCALE,
    HEAD_NAMES,
    HEAD_WEIGHT,
    HEAD_WORDS,
    Adapters,
    stack_adapters,
)
from reptile_scaling.model.backbone import Backbone, LoraShape
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS, fresh_head
from reptile_scaling.model.loading import LanguageModel
from reptile_scaling.model.peft_io import PEFT_PREFIX, lora_config
from reptile_scaling.runs.directory import RunDirectory
from toy_models import encode, tiny_model

STEPS, RATE = 3, 0.3
N_TASKS, N_WAY = 3, 3
Parameters = dict[str, Tensor]


class Twin:
    """The loss of one task as a plain function of its parameters, in double precision."""

    def __init__(self, family: str, engine: Engine, vocab_size: int, rate: float = RATE) -> None:
        lora = lora_config(engine.backbone, "tiny")
        lora.inference_mode, lora.base_model_name_or_path = False, None
        model = tiny_model(family, vocab_size)
        model.set_attn_implementation("eager")  # torch's fused attention has no second derivative
        self._model = get_peft_model(model, lora).double()
        self._token_ids = engine.token_ids
        self._rate = rate

    def features(self, parameters: Parameters, utterances: np.ndarray) -> Tensor:
        named = {
            f"{PEFT_PREFIX}{name}.default.weight": tensor for name, tensor in parameters.items() if "lora_" in name
        }
        rows = []
        for u in utterances.ravel().tolist():
            ids = torch.tensor([self._token_ids[u]])
            output = torch.func.functional_call(
                self._model, named, kwargs={"input_ids": ids, "output_hidden_states": True, "use_cache": False}
            )
            rows.append(output.hidden_states[-1][0, -1])
        return torch.stack(rows)

    def loss(self, parameters: Parameters, utterances: np.ndarray) -> Tensor:
        labels = torch.arange(len(utterances)).repeat_interleave(utterances.shape[1])
        return F.cross_entropy(scores_of(parameters, self.features(parameters, utterances)), labels)

    def adapted(self, theta: Parameters, episode: Episode, moving: Callable[[str], bool]) -> Parameters:
        """The inner loop of SGD, unrolled."""
        phi = dict(theta)
        for _ in range(STEPS):
            names = [name for name in phi if moving(name)]
            slopes = torch.autograd.grad(self.loss(phi, episode.support), [phi[n] for n in names], create_graph=True)
            phi |= {name: phi[name] - self._rate * slope for name, slope in zip(names, slopes, strict=True)}
        return phi


def scores_of(parameters: Parameters, features: Tensor) -> Tensor:
    """Logits of a linear head, or of one that compares directions."""
    weight = parameters[HEAD_WEIGHT]
    if HEAD_LOG_SCALE not in parameters:
        return features @ weight.T + parameters[HEAD_BIAS]
    if HEAD_WORDS in parameters:
        prototypes = features @ weight.T + parameters[HEAD_BIAS]
        return features @ parameters[HEAD_WORDS].T + parameters[HEAD_LOG_SCALE].exp() * prototypes
    cosines = F.cosine_similarity(features[:, None], weight[None], dim=2)
    return cosines * parameters[HEAD_LOG_SCALE].exp() + parameters[HEAD_BIAS]


def everything(name: str) -> bool:
    return True


def head_only(name: str) -> bool:
    return name in HEAD_NAMES


def maml_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    loss = twin.loss(twin.adapted(theta, episode, everything), episode.query)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))


def anil_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    loss = twin.loss(twin.adapted(theta, episode, head_only), episode.query)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))


def fomaml_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    phi = {name: t.detach().requires_grad_() for name, t in twin.adapted(theta, episode, everything).items()}
    return dict(zip(phi, torch.autograd.grad(twin.loss(phi, episode.query), list(phi.values())), strict=True))


def reptile_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    phi = twin.adapted(theta, episode, everything)
    return {name: (theta[name] - phi[name]).detach() for name in theta}


def joint_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    # In these tests every class of the data set is a training class, in its own order.
    both = np.concatenate([episode.support, episode.query], axis=1)
    labels = torch.tensor(episode.classes).repeat_interleave(both.shape[1])
    scores = twin.features(theta, both) @ theta[CLASS_WEIGHT].T + theta[CLASS_BIAS]
    loss = F.cross_entropy(scores, labels)
    found = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, found, strict=True))


def protonet_gradient(twin: Twin, theta: Parameters, episode: Episode) -> Parameters:
    directions = [twin.features(theta, own) for own in episode.support]
    means = torch.stack([(own / own.norm(dim=1, keepdim=True)).mean(0) for own in directions])
    head = {HEAD_WEIGHT: means, HEAD_BIAS: torch.zeros(len(means))}
    loss = twin.loss(theta | head, episode.query)
    found = torch.autograd.grad(loss, list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, found, strict=True))


TWINS = {
    "reptile": reptile_gradient, "fomaml": fomaml_gradient, "maml": maml_gradient, "anil": anil_gradient,
    "joint": joint_gradient, "protonet": protonet_gradient,
}  # fmt: skip


def head_for(algorithm: str) -> str:
    return "cosine" if ALGORITHMS[algorithm].starts_from_support else "classifier"


def starts(engine: Engine, with_classes: bool, head: str = "classifier") -> list[Adapters]:
    """A θ of its own for each task, away from the symmetric start."""
    backbone, generator = engine.backbone, torch.Generator().manual_seed(7)
    sets = []
    for _ in range(N_TASKS):
        tensors = backbone.fresh_lora(generator) | fresh_head(N_WAY, backbone.width, backbone.device)
        tensors |= HEADS[head].own_parameters(N_WAY, backbone.width, backbone.device)
        if with_classes:
            tensors |= class_head(12, backbone.width)
        noisy = {name: x + 0.1 * torch.randn(x.shape, generator=generator) for name, x in tensors.items()}
        sets.append(Adapters(noisy))
    return sets


def engine_gradients(
    name: str, engine: Engine, theta: Sequence[Adapters], head: str, rate: float = RATE
) -> TaskGradients:
    loop = InnerLoop(STEPS, rate, "sgd", head=head, adapts=ALGORITHMS[name].adapts)
    rngs = [np.random.default_rng(t) for t in range(N_TASKS)]
    batch = TaskBatch(stack_adapters(theta), episodes_of(engine), loop, rngs, [0, 0, 1], tuple(range(12)))
    return batch_gradients(engine, ALGORITHMS[name], batch)


def episodes_of(engine: Engine) -> tuple[Episode, ...]:
    return TaskPool(encoder_dataset[0], tuple(range(12)), 0, "train", N_WAY, 3, 2).episodes(N_TASKS)


encoder_dataset: list = []


@pytest.fixture(autouse=True)
def _dataset(toy_dataset) -> None:
    encoder_dataset[:] = [toy_dataset]


def assert_close(found: Adapters, t: int, expected: Parameters, tolerance: float) -> None:
    """As one vector, and each tensor that is more than a thousandth of it."""
    assert found.tensors.keys() == expected.keys()
    norm = torch.stack([e.square().sum() for e in expected.values()]).sum().sqrt()
    assert norm > 0
    for name, own in expected.items():
        error = (found.tensors[name][t].double() - own).norm()
        assert error <= tolerance * max(float(own.norm()), float(norm) * 1e-3), name


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("name", TWINS)
def test_meta_gradient_equals_the_twin(name: str, top: int | None, tokenizer, toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, top)), toy_dataset.texts)
    twin = Twin("llama", engine, len(tokenizer))
    theta = starts(engine, with_classes=name == "joint", head=head_for(name))
    found = engine_gradients(name, engine, theta, head_for(name))
    for t, episode in enumerate(episodes_of(engine)):
        parameters = {n: x.double().requires_grad_() for n, x in theta[t].tensors.items()}
        assert_close(found.gradients, t, TWINS[name](twin, parameters, episode), 2e-3)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "mistral", "gpt2"])
def test_second_derivatives_of_every_family(family: str, tokenizer, toy_dataset) -> None:
    model = LanguageModel(tiny_model(family, len(tokenizer)), tokenizer, family)
    engine = encode(Backbone(model, LoraShape(4, 8.0)), toy_dataset.texts)
    twin = Twin(family, engine, len(tokenizer))
    theta = starts(engine, with_classes=False)
    found = engine_gradients("maml", engine, theta, "classifier")
    episode = episodes_of(engine)[0]
    parameters = {n: x.double().requires_grad_() for n, x in theta[0].tensors.items()}
    assert_close(found.gradients, 0, maml_gradient(twin, parameters, episode), 2e-3)


def test_maml_equals_finite_differences(tokenizer, toy_dataset, language_model) -> None:
    """(L(θ + hd) − L(θ − hd)) / 2h of the hand-written inner loop, along random directions d."""
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    twin, theta, episode = Twin("llama", engine, len(tokenizer)), starts(engine, False), episodes_of(engine)[1]
    found = engine_gradients("maml", engine, theta, "classifier").gradients
    generator, h = torch.Generator().manual_seed(1), 1e-5
    for _ in range(3):
        directions = {n: torch.randn(x.shape, generator=generator).double() for n, x in theta[1].tensors.items()}
        ends = []
        for sign in (1, -1):
            moved = {n: (x.double() + sign * h * directions[n]).requires_grad_() for n, x in theta[1].tensors.items()}
            ends.append(float(twin.loss(twin.adapted(moved, episode, everything), episode.query).detach()))
        slope = sum(float((found.tensors[n][1].double() * d).sum()) for n, d in directions.items())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-3)


def test_second_order_is_not_first_order(toy_dataset, language_model) -> None:
    """The comparison above could not tell them apart where the curvature is small."""
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    theta = starts(engine, False)
    second, first = (engine_gradients(name, engine, theta, "classifier").gradients for name in ("maml", "fomaml"))
    gaps = [float((second.tensors[n] - first.tensors[n]).norm() / first.tensors[n].norm()) for n in first.tensors]
    assert np.median(gaps) > 0.05


@pytest.mark.parametrize("head", ["prototype", "cosine", "words_prototype"])
def test_prototypes_pass_their_gradient_on(head: str, tokenizer, toy_dataset, language_model) -> None:
    """Proto-MAML: the first head is a function of θ through the support features, in MAML and in ANIL."""
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    rate = 0.01  # prototypes are steep: at 0.3 the inner loop is chaotic, and precision decides where it ends
    twin, theta = Twin("llama", engine, len(tokenizer), rate), starts(engine, False, head)
    episode = episodes_of(engine)[2]
    labels = torch.arange(N_WAY).repeat_interleave(3)
    for name, moving in (("maml", everything), ("anil", head_only)):
        own = {n: x.double().requires_grad_() for n, x in theta[2].tensors.items()}
        body = {n: x for n, x in own.items() if not head_only(n)}
        first = HEADS[head].from_support(twin.features(body, episode.support)[None], labels, N_WAY)
        # The inner loop takes the head for a variable of its own, so its body is a copy that no head was made from.
        start = {n: x.clone() for n, x in body.items()} | {n: x[0].requires_grad_() for n, x in first.items()}
        start |= {n: own[n] for n in HEADS[head].own_parameters(N_WAY, 1, torch.device("cpu"))}
        loss = twin.loss(twin.adapted(start, episode, moving), episode.query)
        expected = dict(zip(body, torch.autograd.grad(loss, list(body.values())), strict=True))
        found = engine_gradients(name, engine, theta, head, rate).gradients
        assert_close(Adapters({n: found.tensors[n] for n in body}), 2, expected, 5e-3)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_do_not_depend_on_how_many_tasks_are_in_flight(name: str, toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0, 2)), toy_dataset.texts)
    head = head_for(name)
    theta = starts(engine, with_classes=name == "joint", head=head)
    together = engine_gradients(name, engine, theta, head)
    engine.tasks_in_flight = 1
    alone = engine_gradients(name, engine, theta, head)
    torch.testing.assert_close(together.losses, alone.losses, rtol=1e-4, atol=1e-5)
    for n, tensor in together.gradients.tensors.items():
        error = float((tensor - alone.gradients.tensors[n]).norm())
        assert error <= 2e-3 * max(float(tensor.norm()), 1e-3), n


def test_anil_moves_the_head_alone_at_meta_test(toy_dataset, language_model) -> None:
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    theta = stack_adapters(starts(engine, False))
    loop = InnerLoop(STEPS, RATE, "sgd", adapts="head")
    adapted = adapt_in_groups(engine, TaskBatch(theta, episodes_of(engine), loop)).adapters
    still = {n for n, x in adapted.tensors.items() if torch.equal(x, theta.tensors[n])}
    assert still == {n for n in theta.tensors if "lora_" in n}


@pytest.mark.parametrize("adapts", ["all", "head"])
def test_mini_batches_are_the_same_whatever_moves(adapts: str, toy_dataset, language_model) -> None:
    """The first step's loss is before any change, so it tells which utterances a stream of random numbers chose."""
    engine = encode(Backbone(language_model, LoraShape(4, 8.0)), toy_dataset.texts)
    theta = stack_adapters(starts(engine, False))
    losses = [
        adapt_in_groups(
            engine,
            TaskBatch(theta, episodes_of(engine), InnerLoop(1, RATE, "sgd", batch_size=4, adapts=moving),
                      [np.random.default_rng(t) for t in range(N_TASKS)]),
        ).losses
        for moving in ("all", adapts)
    ]  # fmt: skip
    torch.testing.assert_close(losses[0], losses[1])


def test_outer_steps_equal_torch() -> None:
    theta = Adapters({"w": torch.tensor([1.0, -2.0])})
    gradients = [Adapters({"w": torch.tensor(g)}) for g in ([0.5, -0.1], [-0.2, 0.3], [0.7, 0.0])]
    for name, make in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
        expected = theta.tensors["w"].clone().requires_grad_()
        optimizer = make([expected], lr=0.1)
        ours = theta
        moments = OUTER_OPTIMIZERS[name].first_moments(theta)
        for step, gradient in enumerate(gradients):
            expected.grad = gradient.tensors["w"].clone()
            optimizer.step()
            ours, moments = OUTER_OPTIMIZERS[name].step(ours, gradient.repeated(3), moments, 0.1, step)
        torch.testing.assert_close(ours.tensors["w"], expected.detach())


def test_continued_adam_equals_torch() -> None:
    """From no moments it is the fresh one; from moments it is one Adam that never stopped."""
    gradients = [torch.randn(2, 5, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    expected = torch.ones(2, 5).requires_grad_()
    stock = torch.optim.Adam([expected], lr=0.1, betas=(0.0, 0.999))
    moments = AdamMoments.none_yet(Adapters({"w": torch.ones(5)})).repeated(2)
    w = torch.ones(2, 5)
    for first in (0, 3):
        optimizer = make_optimizer("adam", Adapters({"w": w}), 0.1, moments)
        for gradient in gradients[first : first + 3]:
            optimizer.step([gradient])
        assert optimizer.moments is not None
        moments = optimizer.moments
    for gradient in gradients:
        expected.grad = gradient.clone()
        stock.step()
    torch.testing.assert_close(w, expected.detach())
    assert moments.steps.tolist() == [6, 6]


ALL_ALGORITHMS = {
    "reptile_as_published": {
        "algorithm": "reptile", "keep_second_moments": True, "k_support_train": 5, "inner_batch_size": 4,
        "meta_lr_schedule": "linear", "k_inner_test": 4,
    },
    "reptile_adam": {"algorithm": "reptile", "meta_optimizer": "adam", "meta_lr": 0.01},
    "fomaml": {"algorithm": "fomaml", "meta_optimizer": "adam", "meta_lr": 0.01},
    "maml": {"algorithm": "maml", "inner_lr": 0.1, "head": "prototype"},
    "anil": {"algorithm": "anil", "inner_lr": 0.1, "meta_optimizer": "adam", "meta_lr": 0.01},
    "joint": {"algorithm": "joint", "meta_optimizer": "adam", "meta_lr": 0.01, "head": "zero"},
    "protonet": {
        "algorithm": "protonet", "meta_optimizer": "adam", "meta_lr": 0.01, "head": "cosine", "k_inner_test": 0,
    },
    "fomaml_rates": {"algorithm": "fomaml", "inner_rates": "learned", "inner_optimizer": "sign"},
    "fomaml_rates_of_a_scalar": {"algorithm": "fomaml", "inner_rates": "learned", "head": "words_prototype"},
    "maml_rates": {"algorithm": "maml", "inner_lr": 0.1, "inner_rates": "learned"},
    "reptile_cosine": {"algorithm": "reptile", "head": "cosine"},
    "label_words": {"algorithm": "reptile", "head": "label_words"},
    "words_prototype": {"algorithm": "reptile", "head": "words_prototype"},
    "label_symbols": {"algorithm": "reptile", "head": "label_words", "label_words": "symbols"},
}  # fmt: skip


@pytest.mark.whole_cells
@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_resumed_equals_uninterrupted(name: str, toy_settings, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole sweep of each, cut after two of its meta-steps; the checkpoint holds all that the algorithm keeps."""
    settings = {**toy_settings, "n_tasks_list": [2, 4], "seeds": [0], "num_meta_test_tasks": 2, **ALL_ALGORITHMS[name]}
    config = make_config(settings)
    runs = [RunDirectory(tmp_path / which) for which in ("whole", "cut")]
    run_sweep(plan_sweep(config, runs[0]), runs[0])
    steps = []

    def cut(*arguments):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return meta_step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cohort, "meta_step", cut)
        run_sweep(plan_sweep(config, runs[1]), runs[1])
    run_sweep(plan_sweep(config, runs[1]), runs[1])
    whole, resumed = (run.results() for run in runs)
    assert [r.meta_steps for r in resumed] == [4, 4]
    for a, b in zip(whole, resumed, strict=True):
        assert a.meta_test_loss == pytest.approx(b.meta_test_loss, rel=1e-5)
    if name == "reptile_as_published":
        assert (runs[0].cell(runs[0].cells()[0]).adapter_folder / "second_moments.safetensors").is_file()


@pytest.mark.whole_cells
def test_head_that_is_not_meta_learned_stays(toy_settings, tmp_path) -> None:
    """θ's own head is no part of what a prototype or a word vector starts from, so nothing may move it."""
    from reptile_scaling.model.peft_io import load_adapter

    for head in ("zero", "prototype", "label_words"):
        config = make_config({**toy_settings, "n_tasks_list": [2], "seeds": [0], "head": head})
        run = RunDirectory(tmp_path / head)
        run_sweep(plan_sweep(config, run), run)
        theta = load_adapter(run.cell(run.cells()[0]).adapter_folder, torch.device("cpu"))
        assert theta.tensors[HEAD_WEIGHT].abs().max() == 0, head


def test_label_words_score_what_the_language_model_does(toy_settings) -> None:
    config = make_config({**toy_settings, "head": "label_words"})
    workbench = open_workbench(config, open_corpus(config), "cpu")
    names, engine = workbench.corpus.dataset.class_names, workbench.engine
    assert engine.label_vectors is not None
    vectors = engine.label_vectors([(3, 0), (5, 1)])
    unembedding = workbench.language_model.model.get_output_embeddings()
    tokens = engine.backbone.tokenizer(" " + names[5].replace("_", " "), add_special_tokens=False)["input_ids"]
    features = engine.features(engine.prepare([np.arange(4)]), None)
    torch.testing.assert_close(features @ vectors[1, 0], unembedding(features)[:, tokens].mean(1))
    assert fresh_initialisation(workbench, 0).tensors[HEAD_WEIGHT].shape == (3, 32)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        (
            {"algorithm": "maml", "inner_optimizer": "adam"},
            "inner_optimizer = 'adam' cannot work with algorithm 'maml'.*set inner_optimizer to 'sgd'",
        ),
        ({"algorithm": "anil", "inner_optimizer": "sgd", "lora_dropout": 0.1}, "lora_dropout = 0.1 cannot work"),
        ({"algorithm": "joint", "keep_second_moments": True}, "keep_second_moments = True needs"),
        ({"inner_optimizer": "sgd", "keep_second_moments": True}, "keep_second_moments = True needs"),
        ({"inner_optimizer": "adamw"}, "inner_optimizer = 'adamw' is unknown: use auto or adam or sgd or sign"),
        ({"meta_optimizer": "lion"}, "meta_optimizer = 'lion' is unknown: use sgd or adam"),
        (
            {"algorithm": "mamel"},
            "algorithm = 'mamel' is unknown: use reptile or fomaml or maml or anil or joint or protonet",
        ),
        (
            {"algorithm": "protonet"},
            "head = 'classifier' cannot work with algorithm 'protonet'.*set head to prototype or cos",
        ),
        (
            {"k_inner_test": 0},
            "k_inner_test = 0 leaves every task at chance.*set it to 1 or more, or set head to cosine",
        ),
        ({"k_support_train": 40}, "k_support \\+ k_query = 43"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_loads(settings, complaint: str, toy_settings, tmp_path) -> None:
    with pytest.raises(InputError, match=complaint):
        plan_sweep(make_config({**toy_settings, **settings}), RunDirectory(tmp_path))
