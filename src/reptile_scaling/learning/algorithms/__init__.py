"""Meta-learning algorithms by name. A new one is a file here and a line in ALGORITHMS."""

from reptile_scaling.learning.algorithms import anil, fomaml, joint, maml, protonet, reptile
from reptile_scaling.learning.algorithms.algorithm import Algorithm

ALGORITHMS = {
    "reptile": Algorithm(reptile.task_gradients, keeps_moments=True),
    "fomaml": Algorithm(fomaml.task_gradients, reads_query=True, keeps_moments=True, utterances_held=max),
    "maml": Algorithm(
        maml.task_gradients,
        reads_query=True,
        differentiates_inner_loop=True,
        utterances_held=lambda n_support, n_query: max(maml.SECOND_ORDER_FACTOR * n_support, n_query),
    ),
    "anil": Algorithm(
        anil.task_gradients,
        reads_query=True,
        differentiates_inner_loop=True,
        adapts="head",
        utterances_held=int.__add__,
    ),
    "joint": Algorithm(
        joint.task_gradients,
        reads_query=True,
        has_inner_loop=False,
        utterances_held=int.__add__,
        own_parameters=joint.class_head,
    ),
    "protonet": Algorithm(
        protonet.task_gradients,
        reads_query=True,
        starts_from_support=True,
        has_inner_loop=False,
        utterances_held=int.__add__,
    ),
}
