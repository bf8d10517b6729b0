"""Joint training, meta-learning's honest rival: one classifier of all training classes (Tian et al. 2020,
arXiv:2003.11539; Chen et al. 2019, arXiv:1904.04232). No inner loop; tasks start from its LoRA and a fresh head.
"""

import numpy as np
import torch
import torch.nn.functional as F

from reptile_scaling.learning.algorithms.algorithm import TaskGradients
from reptile_scaling.learning.examples import Examples
from reptile_scaling.learning.task_batch import TaskBatch
from reptile_scaling.model.engine import Engine

CLASS_WEIGHT, CLASS_BIAS = "joint.weight", "joint.bias"


def class_head(n_classes: int, width: int) -> dict[str, torch.Tensor]:
    """A row for every training class, whichever task it comes in: slots mean nothing here."""
    return {CLASS_WEIGHT: torch.zeros(n_classes, width), CLASS_BIAS: torch.zeros(n_classes)}


def task_gradients(engine: Engine, batch: TaskBatch) -> TaskGradients:
    """∇ of the cross-entropy over all training classes, on a task's support and query utterances alike."""
    row_of = {class_id: row for row, class_id in enumerate(batch.train_classes)}
    utterances, classes = [], []
    for episode in batch.episodes:
        both = np.concatenate([episode.support, episode.query], axis=1)
        utterances.append(both.ravel())
        classes.append(np.repeat([row_of[c] for c in episode.classes], both.shape[1]))
    labels_TS = torch.from_numpy(np.stack(classes)).to(engine.backbone.device)
    examples = Examples(engine, utterances, labels_TS[0], batch.owners)
    theta = batch.theta.map(lambda tensor: tensor.detach().clone().requires_grad_())
    scores = torch.baddbmm(
        theta.tensors[CLASS_BIAS][:, None], examples.features(theta), theta.tensors[CLASS_WEIGHT].transpose(1, 2)
    )
    losses_T = F.cross_entropy(scores.transpose(1, 2), labels_TS, reduction="none").mean(1)
    found = torch.autograd.grad(losses_T.sum(), list(theta.tensors.values()), materialize_grads=True)
    return TaskGradients(theta.like(found), losses_T.detach()[None])
