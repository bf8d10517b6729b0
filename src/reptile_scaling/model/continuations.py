"""How likely a language model finds each of some continuations after each of some prompts that share a context.

All of them are one tree (context → prompts → continuations) and one forward: a token sees its own branch alone, so the
context is computed once for all prompts, and a prompt once for all continuations.

Suffixes: P packed tokens · M rows that are asked for the next token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.model.attention import Blocks, RaggedLayout
from reptile_scaling.model.backbone import Backbone, PlacedBatch
from reptile_scaling.model.stacked_lora import TaskRows

TOKENS_PER_FORWARD = 2048
"""Bounds the attention scores of one tree, beyond its context; more prompts are done in turn."""
ROWS_PER_UNEMBEDDING = 256


@torch.no_grad()
def continuation_scores(
    backbone: Backbone,
    context: Sequence[int],
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> Float[Tensor, "prompts continuations"]:
    """Mean log-probability of each continuation's tokens after context and prompt, nats per token.

    All are token ids; prompts and continuations hold one at least. The frozen model is asked, without adapters.
    """
    per_prompt = max(map(len, prompts)) + sum(len(c) - 1 for c in continuations)
    size = max(1, TOKENS_PER_FORWARD // per_prompt)
    parts = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    return torch.cat([_scores(backbone, _plant(context, part, continuations), continuations) for part in parts])


@dataclass(frozen=True)
class _Tree:
    """A forest of branches laid end to end."""

    token_ids: np.ndarray
    positions: np.ndarray
    sees: np.ndarray
    """`[P, P]`: whether the row's token sees the column's."""
    asked: np.ndarray
    """`[prompts, continuations, longest]`: the row that predicts each token; −1 past a continuation's end."""


def _plant(context: Sequence[int], prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> _Tree:
    token_ids: list[int] = []
    positions: list[int] = []
    branch_ends: list[tuple[int, int, list[range]]] = []
    """First row, last row + 1 and the rows above, of each branch."""

    def grow(tokens: Sequence[int], above: list[range]) -> range:
        rows = range(len(token_ids), len(token_ids) + len(tokens))
        depth = sum(map(len, above))
        token_ids.extend(tokens)
        positions.extend(range(depth, depth + len(tokens)))
        branch_ends.append((rows.start, rows.stop, above))
        return rows

    root = grow(context, [])
    asked = np.full((len(prompts), len(continuations), max(map(len, continuations))), -1)
    for p, prompt in enumerate(prompts):
        stem = grow(prompt, [root])
        for c, continuation in enumerate(continuations):
            # The last token of a continuation predicts nothing that is asked for.
            twig = grow(continuation[:-1], [root, stem])
            asked[p, c, : len(continuation)] = [stem[-1], *twig]
    sees = np.zeros((len(token_ids), len(token_ids)), dtype=bool)
    for start, stop, above in branch_ends:
        sees[start:stop, start:stop] = np.tri(stop - start, dtype=bool)
        for rows in above:
            sees[start:stop, rows.start : rows.stop] = True
    return _Tree(np.array(token_ids), np.array(positions), sees, asked)


def _scores(backbone: Backbone, tree: _Tree, continuations: Sequence[Sequence[int]]) -> Tensor:
    device = backbone.device
    rows_M, row_in_M = np.unique(tree.asked[tree.asked >= 0], return_inverse=True)
    features = backbone.features(_place(backbone, tree, rows_M))
    wanted = np.zeros(tree.asked.shape, dtype=np.int64)
    for c, continuation in enumerate(continuations):
        wanted[:, c, : len(continuation)] = continuation
    is_token = tree.asked >= 0
    found = np.zeros(tree.asked.shape)
    found[is_token] = _log_probabilities(backbone, features, row_in_M, wanted[is_token])
    return torch.from_numpy(found.sum(2) / is_token.sum(2)).to(device)


def _place(backbone: Backbone, tree: _Tree, rows_M: np.ndarray) -> PlacedBatch:
    device = backbone.device

    def block(rows: np.ndarray) -> Blocks:
        hidden = torch.zeros(1, len(rows), len(tree.token_ids), dtype=backbone.dtype)
        hidden.masked_fill_(~torch.from_numpy(tree.sees[rows])[None], -torch.inf)
        places = torch.arange(len(rows), device=device)
        return Blocks(places[None], places, hidden.to(device))

    answer_M = torch.from_numpy(rows_M).to(device)
    layout = RaggedLayout(block(np.arange(len(tree.token_ids))), block(rows_M), answer_M)
    no_tasks = TaskRows([0], [])
    return PlacedBatch(
        torch.from_numpy(tree.token_ids).to(device), torch.from_numpy(tree.positions).to(device),
        layout, no_tasks, no_tasks,
    )  # fmt: skip


def _log_probabilities(
    backbone: Backbone, features: Float[Tensor, "M D"], rows: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Of each token after its row."""
    unembedding = backbone.model.get_output_embeddings()
    softcap = getattr(backbone.model.config.get_text_config(), "final_logit_softcapping", None)
    found = np.zeros(len(rows))
    for first in range(0, len(features), ROWS_PER_UNEMBEDDING):
        scores = unembedding(features[first : first + ROWS_PER_UNEMBEDDING].to(unembedding.weight.dtype)).float()
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        here = (rows >= first) & (rows < first + ROWS_PER_UNEMBEDDING)
        picked = scores.log_softmax(-1)[rows[here] - first, tokens[here]]
        found[here] = picked.double().cpu().numpy()
    return found
