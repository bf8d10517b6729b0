"""Where a task starts: θ once per task, under the head it begins with."""

from collections.abc import Sequence

from reptile_scaling.model.adapters import HEAD_WEIGHT, Adapters
from reptile_scaling.model.engine import Engine
from reptile_scaling.model.heads import HEADS


def starting_points(engine: Engine, theta: Adapters, classes_of_task: Sequence[Sequence[int]], head: str) -> Adapters:
    """θ once per task `[T, …]`, under the head that a task starts from where θ's own is not kept."""
    if (reset := HEADS[head].reset) is not None:
        n_way, width = theta.tensors[HEAD_WEIGHT].shape
        theta = Adapters(theta.tensors | reset(n_way, width, theta.tensors[HEAD_WEIGHT].device))
    stack = theta.repeated(len(classes_of_task))
    if (from_words := HEADS[head].from_words) is not None:
        assert engine.label_vectors is not None, f"head {head} needs the classes' words"
        stack = Adapters(stack.tensors | from_words(engine.label_vectors(classes_of_task)))
    return stack
