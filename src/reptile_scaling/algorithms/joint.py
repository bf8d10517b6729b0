"""Joint training, meta-learning's honest rival: one classifier of all training classes (Tian et al. 2020,
arXiv:2003.11539; Chen et al. 2019, arXiv:1904.04232). No inner loop; tasks start from its LoRA and a fresh head.
"""

import numpy as np
import torch
import torch.nn.functional as F

from reptile_scaling.algorithms.algorithm import MetaBatch, TaskGradients
from reptile_scaling.examples import Examples
from reptile_scaling.model.adapters import join_adapters
from reptile_scaling.model.encoder import PromptEncoder

CLASS_WEIGHT, CLASS_BIAS = "joint.weight", "joint.bias"


def class_head(n_classes: int, width: int) -> dict[str, torch.Tensor]:
    """A row for every training class, whichever task it comes in: slots mean nothing here."""
    return {CLASS_WEIGHT: torch.zeros(n_classes, width), CLASS_BIAS: torch.zeros(n_classes)}


def joint(encoder: PromptEncoder, batch: MetaBatch) -> TaskGradients:
    """∇ of the cross-entropy over all training classes, on a task's support and query utterances alike."""
    row_of = {class_id: row for row, class_id in enumerate(batch.train_classes)}
    device = encoder.backbone.device

    def gradients_of(tasks: slice) -> TaskGradients:
        utterances, classes = [], []
        for episode in batch.episodes[tasks]:
            both = np.concatenate([episode.support, episode.query], axis=1)
            utterances.append(both.ravel())
            classes.append(np.repeat([row_of[c] for c in episode.classes], both.shape[1]))
        labels_TS = torch.from_numpy(np.stack(classes)).to(device)
        examples = Examples(encoder, utterances, labels_TS[0], batch.owners[tasks])
        theta = batch.theta.rows(tasks).map(lambda tensor: tensor.detach().clone().requires_grad_())
        scores = torch.baddbmm(
            theta.tensors[CLASS_BIAS][:, None], examples.features(theta), theta.tensors[CLASS_WEIGHT].transpose(1, 2)
        )
        losses_T = F.cross_entropy(scores.transpose(1, 2), labels_TS, reduction="none").mean(1)
        found = torch.autograd.grad(losses_T.sum(), list(theta.tensors.values()), materialize_grads=True)
        return TaskGradients(theta.like(found), losses_T.detach()[None])

    groups = encoder.in_groups(gradients_of, len(batch.episodes))
    return TaskGradients(join_adapters(g.gradients for g in groups), torch.cat([g.losses for g in groups], dim=1))
