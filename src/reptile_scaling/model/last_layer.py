"""The last layer for the answer token of each prompt alone, by wrapping the Hub's own modules.

Three steps, each taken where the one before has been and the model gives the same with it:

1. queries, output projection and MLP are computed for the answer rows; the other rows are zero and never read;
2. the layer hands on its answer rows alone, so that residuals and norms are computed for these;
3. attention is called twice, for the keys and values of all rows, then for the queries of the answer rows, so that
   nothing of a query (bias, norm, rotary embedding) is computed for a row that does not ask.

Suffixes: P packed tokens · S prompts · D width.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from reptile_scaling.model.attention import KEYS_APART, READS_ANSWERS_ONLY
from reptile_scaling.model.blocks import linear_shape
from reptile_scaling.model.stacked_lora import ForwardContext, StackedLora

OUTPUT_PROJECTIONS = ("o_proj", "dense", "out_proj", "c_proj")
Place = tuple[int | str, ...]
"""Where a tensor stands among the arguments of a module."""


class Around(nn.Module):
    """A module of the model with something around it; what it lacks itself, it has of the module."""

    def __init__(self, module: nn.Module, context: ForwardContext) -> None:
        super().__init__()
        self.module = module
        self.context = context

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # E.g. the kind of attention that a model asks its layers for.
            return getattr(super().__getattr__("module"), name)


def compute_answers_only(last_layer: nn.Module, context: ForwardContext) -> None:
    """Queries, output projection and MLP for one token per prompt; keys and values for all."""
    attention_name, attention = _attention_of(last_layer)
    setattr(attention, READS_ANSWERS_ONLY, True)
    for name in ("q_proj", *OUTPUT_PROJECTIONS):
        if hasattr(attention, name):
            own = _AnswerRows(getattr(attention, name), context, hands_on_all=name == "q_proj")
            setattr(attention, name, own)
    for name, child in last_layer.named_children():
        if name != attention_name and _holds_linears(child):
            setattr(last_layer, name, _AnswerRows(child, context, hands_on_all=False))


def cut_to_answers(
    around: Around, context: ForwardContext, forward: Callable[[], Tensor], answer_S: Tensor
) -> Tensor | None:
    """Has the last layer, which something stands around, hand on its answer rows alone, where the model goes on with as
    many as it is given; what it gives then, `[1, S, D]`, or None.

    `forward` gives the model's output `[1, P, D]`, of which `answer_S` are the answer rows.
    """
    last = around.module
    found: list[Tensor] = []
    reader = _reader_of_what_enters(last, lambda: found.append(forward()))
    if reader is None:
        return None
    child = getattr(last, reader)
    setattr(last, reader, Whole(child, context))
    around.module = _AnswersFromHere(last, context)
    cut = _given(forward, found[0][:, answer_S])
    if cut is None:
        setattr(last, reader, child)
        around.module = last
    return cut


def ask_apart(
    around: Around, context: ForwardContext, forward: Callable[[], Tensor], expected: Tensor, n_rows: int
) -> bool:
    """Has the attention of a last layer that is cut read its keys and values apart from its queries, where it takes
    that: with projections by the usual names, whose outputs it divides into as many heads as there are.

    `forward` gives the model's output for prompts of `n_rows` tokens, a number that no size of the model equals; it is
    to be as `expected`, `[1, S, D]`.
    """
    last: Any = around.module.module
    name, found = _attention_of(last)
    holder, name = (found, "module") if isinstance(found, Whole) else (last, name)
    attention: Any = getattr(holder, name)
    outputs = [own for own in OUTPUT_PROJECTIONS if hasattr(attention, own)]
    if len(outputs) != 1 or not all(hasattr(attention, own) for own in ("q_proj", "k_proj", "v_proj", "head_dim")):
        return False
    before = dict(attention._modules)
    attention.q_proj = _InOneStage(attention.q_proj.module, context, attention.head_dim, of_answers=True)
    attention.k_proj = _InOneStage(attention.k_proj, context, attention.head_dim, of_answers=False)
    attention.v_proj = _InOneStage(attention.v_proj, context, attention.head_dim, of_answers=False)
    setattr(attention, outputs[0], _OfAnswers(getattr(attention, outputs[0]).module, context))
    setattr(holder, name, _KeysThenAnswers(attention, context, n_rows))
    setattr(attention, KEYS_APART, context)
    if _given(forward, expected) is not None:
        return True
    leave_keys(attention)
    attention._modules.update(before)
    setattr(holder, name, attention)
    return False


def leave_keys(module: nn.Module) -> None:
    """Takes from an attention module what this file has written on it."""
    for name in (READS_ANSWERS_ONLY, KEYS_APART):
        module.__dict__.pop(name, None)


REFUSALS = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError)
"""What a model's own code raises at shapes that it does not take."""


def _given(forward: Callable[[], Tensor], expected: Tensor) -> Tensor | None:
    """What a forward gives, if it is as expected. Roughly: a model's comparison with the Hub's comes later and is
    strict."""
    try:
        found = forward()
    except REFUSALS:
        return None
    is_alike = found.shape == expected.shape and (found - expected).abs().max() <= 0.05 * expected.abs().max()
    return found if is_alike else None


class _AnswersFromHere(Around):
    """The last layer on the answer rows, but for what its attention reads, which is all rows (`Whole`)."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        context = self.context
        assert context.answer_rows is not None
        context.whole = hidden
        output = self.module(hidden.index_select(1, context.answer_rows), *args, **kwargs)
        context.whole = None
        return output


class Whole(Around):
    """A module that is given the answer rows and reads all rows."""

    is_constant = False
    """Whether no adapter changes what it gives."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kept = self.context.once("whole", lambda: [self._read(*args, **kwargs)]) if self.is_constant else None
        return self._read(*args, **kwargs) if kept is None else kept[0]

    def _read(self, *args: Any, **kwargs: Any) -> Any:
        if "hidden_states" in kwargs:
            return self.module(*args, **{**kwargs, "hidden_states": self.context.whole})
        return self.module(self.context.whole, *args[1:], **kwargs)


class _AnswerRows(Around):
    """Runs a module on the answer row of each prompt alone; the other rows, where there are any, are zero and never
    read."""

    def __init__(self, module: nn.Module, context: ForwardContext, *, hands_on_all: bool) -> None:
        super().__init__(module, context)
        self.hands_on_all = hands_on_all
        """Whether what follows shapes the rows as they were read, though the layer may hand on answers alone."""

    def forward(self, x: Tensor) -> Tensor:
        rows_S = self.context.answer_rows
        assert rows_S is not None
        with self.context.on_answers():
            # Where there are as many rows as prompts, each is the answer of its own.
            y: Tensor = self.module(x if x.shape[1] == len(rows_S) else x[:, rows_S])
        if self.context.whole is not None and not self.hands_on_all:
            return y
        return y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy(1, rows_S, y)


class _KeysThenAnswers(Around):
    """An attention module that is called for the keys and values of all rows, then for the queries of answer rows."""

    def __init__(self, module: nn.Module, context: ForwardContext, n_rows: int) -> None:
        super().__init__(module, context)
        self.n_rows = n_rows
        self.rows_at: dict[Place, int] | None = None
        """Which dimension of which argument counts rows; found at the first call, of `n_rows` rows."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        context = self.context
        given: dict[Any, Any] = dict(enumerate(args)) | kwargs
        if self.rows_at is None:
            self.rows_at = {
                path: list(tensor.shape).index(self.n_rows)
                for path, tensor in _tensors(given)
                if self.n_rows in tensor.shape
            }
        self.module(*args, **kwargs)
        own = _select_rows(given, self.rows_at, context.answer_rows)
        with context.on_answers():
            context.asks = True
            try:
                return self.module(*(own[i] for i in range(len(args))), **{name: own[name] for name in kwargs})
            finally:
                context.asks, context.keys = False, None


def _tensors(value: Any, path: Place = ()) -> list[tuple[Place, Tensor]]:
    if isinstance(value, Tensor):
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
    return [found for name, item in items for found in _tensors(item, (*path, name))]


def _select_rows(value: Any, rows_at: dict[Place, int], rows: Tensor | None, path: Place = ()) -> Any:
    """The arguments with these rows alone, wherever rows are counted."""
    if isinstance(value, Tensor):
        assert rows is not None
        return value.index_select(rows_at[path], rows) if path in rows_at else value
    if isinstance(value, dict):
        return {name: _select_rows(item, rows_at, rows, (*path, name)) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_select_rows(item, rows_at, rows, (*path, i)) for i, item in enumerate(value))
    return value


class _InOneStage(Around):
    """A projection in the call that it is for; in the other one head of rows that nobody reads."""

    def __init__(self, module: nn.Module, context: ForwardContext, head_width: int, *, of_answers: bool) -> None:
        super().__init__(module, context)
        self.head_width = head_width
        self.of_answers = of_answers

    def forward(self, x: Tensor) -> Tensor:
        if self.of_answers == self.context.asks:
            y: Tensor = self.module(x)
            return y
        return x[..., : self.head_width].detach()


class _OfAnswers(Around):
    """The output projection, in the call for the answer rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) if self.context.asks else x


def _attention_of(layer: nn.Module) -> tuple[str, nn.Module]:
    return next((n, m) for n, m in layer.named_children() if ("attn" in n or "attention" in n) and _holds_linears(m))


def _reader_of_what_enters(layer: nn.Module, forward: Callable[[], object]) -> str | None:
    """The child through which a layer's attention reads what enters the layer: itself, or the norm before it; None
    where neither does. Found by watching a forward."""
    attention_name, attention = _attention_of(layer)
    entered: list[Tensor] = []
    read: list[Tensor] = []
    given: dict[str, tuple[Tensor, Any]] = {}

    def watch(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs, output: given.update({name: (_hidden(args, kwargs), output)})

    hooks = [
        layer.register_forward_pre_hook(lambda _, a, k: entered.append(_hidden(a, k)), with_kwargs=True),
        attention.register_forward_pre_hook(lambda _, a, k: read.append(_hidden(a, k)), with_kwargs=True),
    ]
    others = [(name, child) for name, child in layer.named_children() if child is not attention]
    hooks += [child.register_forward_hook(watch(name), with_kwargs=True) for name, child in others]
    forward()
    for hook in hooks:
        hook.remove()
    if read[0] is entered[0]:
        return attention_name
    return next((name for name, (x, y) in given.items() if x is entered[0] and y is read[0]), None)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _holds_linears(module: nn.Module) -> bool:
    """A norm may be called after the attention it follows."""
    return any(linear_shape(m) or isinstance(m, StackedLora) for m in module.modules())
