"""First-order MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400, §5.2): the query gradient where adaptation ended."""

from torch import Tensor

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import loss_gradient, query_examples
from reptile_scaling.learning.inner_loop import adapt
from reptile_scaling.learning.inner_rates import first_order, split_rates
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.adapters import Adapters
from reptile_scaling.model.engine import Engine


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """∇L_query(φ_t) at φ_t: MAML's gradient with dφ_t/dθ taken as the identity."""
    directions: list[list[Tensor]] = []
    adapted = adapt(engine, batch, directions=directions)
    gradients = loss_gradient(query_examples(engine, batch), adapted.adapters)
    _, log_rates = split_rates(batch.theta)
    if log_rates is not None:
        gradients = Adapters(gradients.tensors | first_order(gradients, directions, log_rates))
    return TaskGradients(gradients, adapted.losses, adapted.moments)
