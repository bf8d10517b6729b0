"""How likely a language model finds each of some continuations after each of some prompts that share a context.

All of them are one tree (context → prompts → continuations) and one forward: a token sees its own branch alone, so the
context is computed once for all prompts, and a prompt once for all continuations.

Suffixes: P packed tokens · M rows that are asked for the next token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reptile_scaling.model.attention import Blocks, RaggedLayout
from reptile_scaling.model.backbone import PADDED, Backbone
from reptile_scaling.model.low_rank import SharedProducts
from reptile_scaling.model.packed_forward import PlacedBatch
from reptile_scaling.model.packing import pack_tokens
from reptile_scaling.model.stacked_lora import TaskRows

TOKENS_PER_FORWARD = 4096
"""Bounds the memory of one forward, beyond the context; more prompts are done in turn."""
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
    if backbone.path == PADDED:
        return torch.stack([_by_sentences(backbone, [*context, *prompt], continuations) for prompt in prompts])
    per_prompt = max(map(len, prompts)) + sum(len(c) - 1 for c in continuations)
    size = max(1, TOKENS_PER_FORWARD // per_prompt)
    parts = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    return torch.cat([_scores(backbone, _plant(context, part, continuations), continuations) for part in parts])


def _by_sentences(
    backbone: Backbone, beginning: Sequence[int], continuations: Sequence[Sequence[int]]
) -> Float[Tensor, "continuations"]:
    """The same by whole sentences of one prompt, for a model that takes no tree."""
    sentences = [[*beginning, *continuation] for continuation in continuations]
    hidden_SLD = backbone.padded_hidden(pack_tokens(sentences, [np.arange(len(sentences))]))
    first = len(beginning) - 1
    means = []
    for row_LD, continuation in zip(hidden_SLD, continuations, strict=True):
        features = row_LD[first : first + len(continuation)].float()
        found = _log_probabilities(backbone, features, np.arange(len(continuation)), np.array(continuation))
        means.append(found.mean())
    return torch.tensor(means, device=backbone.device)


@dataclass(frozen=True)
class _Tree:
    """A forest of branches laid end to end."""

    token_ids: np.ndarray
    positions: np.ndarray
    sees: np.ndarray
    """`[P, P]`: whether the row's token sees the column's."""
    context: range
    """Its rows."""
    branches: list[range]
    """The rows of each prompt with its continuations."""
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

    root, branches = grow(context, []), []
    asked = np.full((len(prompts), len(continuations), max(map(len, continuations))), -1)
    for p, prompt in enumerate(prompts):
        stem = grow(prompt, [root])
        for c, continuation in enumerate(continuations):
            # The last token of a continuation predicts nothing that is asked for.
            twig = grow(continuation[:-1], [root, stem])
            asked[p, c, : len(continuation)] = [stem[-1], *twig]
        branches.append(range(stem.start, len(token_ids)))
    sees = np.zeros((len(token_ids), len(token_ids)), dtype=bool)
    for start, stop, above in branch_ends:
        sees[start:stop, start:stop] = np.tri(stop - start, dtype=bool)
        for rows in above:
            sees[start:stop, rows.start : rows.stop] = True
    return _Tree(np.array(token_ids), np.array(positions), sees, root, branches, asked)


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
    """A block for each branch, whose keys are the context's and its own; the context itself in blocks of that size."""
    device, n_context = backbone.device, len(tree.context)
    size = max(len(branch) for branch in tree.branches)
    pieces = [tree.context[i : i + size] for i in range(0, n_context, size)]
    queries = [*pieces, *tree.branches]
    key_rows = np.zeros((len(queries), n_context + size), dtype=np.int64)
    key_rows[:, :n_context] = np.arange(n_context)
    is_key = np.zeros(key_rows.shape, dtype=bool)
    is_key[:, :n_context] = True
    for n, branch in enumerate(tree.branches, start=len(pieces)):
        key_rows[n, n_context : n_context + len(branch)] = branch
        is_key[n, n_context : n_context + len(branch)] = True

    def block(rows_of: Sequence[Sequence[int]]) -> Blocks:
        width = max(map(len, rows_of))
        row_at = np.zeros((len(rows_of), width), dtype=np.int64)
        sees = np.zeros((len(rows_of), width, key_rows.shape[1]), dtype=bool)
        sees[:, :, 0] = True  # an empty place sees anything, so that no softmax is over nothing
        place_of: dict[int, int] = {}
        for n, rows in enumerate(rows_of):
            row_at[n, : len(rows)] = rows
            sees[n, : len(rows)] = tree.sees[list(rows)][:, key_rows[n]] & is_key[n]
            place_of |= {row: n * width + m for m, row in enumerate(rows)}
        hidden = torch.zeros(sees.shape, dtype=backbone.dtype).masked_fill_(~torch.from_numpy(sees), -torch.inf)
        places = torch.tensor([place_of[row] for row in sorted(place_of)], device=device)
        return Blocks(torch.from_numpy(row_at).to(device), places, hidden.to(device))

    asked = set(rows_M.tolist())
    answers = block([[row for row in rows if row in asked] for rows in queries])
    # The last layer has the asked rows alone, in their order.
    rank_of_row = np.zeros(len(tree.token_ids), dtype=np.int64)
    rank_of_row[rows_M] = np.arange(len(rows_M))
    by_rank = torch.from_numpy(rank_of_row).to(device)[answers.row_at_NM]
    keys = Blocks(torch.from_numpy(key_rows).to(device), answers.place_of_rows, answers.hidden_NMB)
    layout = RaggedLayout(
        block(queries), replace(answers, row_at_NM=by_rank), torch.from_numpy(rows_M).to(device),
        int(tree.positions.max()) + 1, keys,
    )  # fmt: skip
    no_tasks = TaskRows([0], SharedProducts([]))
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
