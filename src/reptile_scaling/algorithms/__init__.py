"""Meta-learning algorithms by name. A new one is a file here and a line in ALGORITHMS."""

from reptile_scaling.algorithms.algorithm import Algorithm
from reptile_scaling.algorithms.anil import anil
from reptile_scaling.algorithms.fomaml import fomaml
from reptile_scaling.algorithms.joint import class_head, joint
from reptile_scaling.algorithms.maml import SECOND_ORDER_FACTOR, maml
from reptile_scaling.algorithms.reptile import reptile

ALGORITHMS = {
    "reptile": Algorithm(reptile, keeps_moments=True),
    "fomaml": Algorithm(fomaml, reads_query=True, keeps_moments=True, utterances_held=max),
    "maml": Algorithm(
        maml,
        reads_query=True,
        differentiates_inner_loop=True,
        utterances_held=lambda n_support, n_query: max(SECOND_ORDER_FACTOR * n_support, n_query),
    ),
    "anil": Algorithm(
        anil, reads_query=True, differentiates_inner_loop=True, adapts="head", utterances_held=int.__add__
    ),
    "joint": Algorithm(joint, reads_query=True, utterances_held=int.__add__, own_parameters=class_head),
}
