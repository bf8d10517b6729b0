"""How likely a language model finds each of some continuations after each of some prompts that share a context.

All of them are one tree: context → prompts → tokens of continuations. A token sees the tokens above it alone, so the
context is computed once for all prompts, a prompt once for all its continuations, and continuations that begin with
the same words part only where they differ.

Suffixes: P packed tokens · M rows that are asked for the next token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reptile_scaling.model.attention import Blocks, RaggedLayout
from reptile_scaling.model.backbone import PADDED, Backbone
from reptile_scaling.model.low_rank import SharedProducts
from reptile_scaling.model.packed_forward import PlacedBatch
from reptile_scaling.model.packing import pack_tokens
from reptile_scaling.model.stacked_lora import TaskRows

TOKENS_PER_FORWARD = 4096
"""Bounds the memory of one forward, beyond the context; more prompts are done in turn."""
ROWS_PER_BLOCK = 128
"""Of attention: prompts share a block, which holds the context's keys once for all of them."""
ROWS_PER_UNEMBEDDING = 256


@torch.no_grad()
def continuation_scores(
    backbone: Backbone,
    context: Sequence[int],
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    wanted: Bool[np.ndarray, "prompts continuations"],
) -> Float[np.ndarray, "prompts continuations"]:
    """Mean log-probability per token of each continuation after context and prompt, in nats; NaN where not wanted.

    All are token ids; prompts and continuations hold one at least. The frozen model is asked, without adapters.
    """
    if backbone.path == PADDED:
        asked = zip(prompts, wanted, strict=True)
        return np.stack([_by_sentences(backbone, [*context, *prompt], continuations, own) for prompt, own in asked])
    n_shared = min(len(commonprefix([list(p) for p in prompts])), min(map(len, prompts)) - 1)
    context, stems = [*context, *prompts[0][:n_shared]], [prompt[n_shared:] for prompt in prompts]
    branches = [_grow(stem, continuations, asked) for stem, asked in zip(stems, wanted, strict=True)]
    found = np.full(wanted.shape, np.nan)
    for part in _share(range(len(branches)), [len(b.token_ids) for b in branches], TOKENS_PER_FORWARD):
        found[part] = _scores(backbone, context, [branches[p] for p in part], continuations)
    return found


def _by_sentences(
    backbone: Backbone,
    beginning: Sequence[int],
    continuations: Sequence[Sequence[int]],
    wanted: Bool[np.ndarray, "continuations"],
) -> Float[np.ndarray, "continuations"]:
    """The same by whole sentences of one prompt, for a model that takes no tree."""
    asked = np.flatnonzero(wanted).tolist()
    sentences = [[*beginning, *continuations[c]] for c in asked]
    hidden_SLD = backbone.padded_hidden(pack_tokens(sentences, [np.arange(len(sentences))]))
    first = len(beginning) - 1
    means = np.full(len(continuations), np.nan)
    for c, row_LD in zip(asked, hidden_SLD, strict=True):
        tokens = np.array(continuations[c])
        features = row_LD[first : first + len(tokens)].float()
        means[c] = _log_probabilities(backbone, features, np.arange(len(tokens)), tokens).mean()
    return means


@dataclass(frozen=True)
class _Branch:
    """A prompt and, after it, every beginning that its continuations have, each once."""

    token_ids: list[int]
    depths: list[int]
    """How many tokens of the branch stand above each."""
    sees: np.ndarray
    """`[n, n]`: whether the row's token sees the column's."""
    asked: list[list[int]]
    """Of each continuation, the row that predicts each of its tokens; empty where it is not wanted."""


def _grow(stem: Sequence[int], continuations: Sequence[Sequence[int]], wanted: np.ndarray) -> _Branch:
    token_ids, depths = list(stem), list(range(len(stem)))
    above = list(range(-1, len(stem) - 1))
    """The row right above each; −1 is the context."""
    row_of: dict[tuple[int, ...], int] = {(): len(stem) - 1}
    asked: list[list[int]] = []
    for continuation, is_wanted in zip(continuations, wanted, strict=True):
        # The last token of a continuation predicts nothing that is asked for.
        beginnings = [tuple(continuation[:n]) for n in range(len(continuation))] if is_wanted else []
        for beginning in beginnings[1:]:
            if beginning not in row_of:
                row_of[beginning] = len(token_ids)
                token_ids.append(beginning[-1])
                above.append(row_of[beginning[:-1]])
                depths.append(depths[above[-1]] + 1)
        asked.append([row_of[beginning] for beginning in beginnings])
    sees = np.eye(len(token_ids), dtype=bool)
    for row, parent in enumerate(above):
        if parent >= 0:
            sees[row] |= sees[parent]
    return _Branch(token_ids, depths, sees, asked)


def _share(numbers: Sequence[int], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Neighbours put together as long as their sizes fit the room; one that is larger is alone."""
    groups: list[list[int]] = []
    left = 0
    for number, size in zip(numbers, sizes, strict=True):
        if size > left:
            groups.append([])
            left = room
        groups[-1].append(number)
        left -= size
    return groups


def _scores(
    backbone: Backbone, context: Sequence[int], branches: Sequence[_Branch], continuations: Sequence[Sequence[int]]
) -> np.ndarray:
    """Of some branches, in one forward."""
    firsts = len(context) + np.cumsum([0, *(len(branch.token_ids) for branch in branches)])
    asked = [
        (p, c, firsts[p] + row, token)
        for p, branch in enumerate(branches)
        for c, rows in enumerate(branch.asked)
        for row, token in zip(rows, continuations[c], strict=False)
    ]
    p, c, row, token = np.array(asked).T
    rows_M, row_in_M = np.unique(row, return_inverse=True)
    features = backbone.features(_place(backbone, context, branches, rows_M))
    sums = np.zeros((len(branches), len(continuations)))
    counts = np.zeros(sums.shape)
    np.add.at(sums, (p, c), _log_probabilities(backbone, features, row_in_M, token))
    np.add.at(counts, (p, c), 1)
    means: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def _place(backbone: Backbone, context: Sequence[int], branches: Sequence[_Branch], rows_M: np.ndarray) -> PlacedBatch:
    """Blocks of branches, whose keys are the context's and their own; the context itself in blocks of that size."""
    device, n_context = backbone.device, len(context)
    lengths = [len(branch.token_ids) for branch in branches]
    n_rows = n_context + sum(lengths)
    groups = _share(range(len(branches)), lengths, ROWS_PER_BLOCK)
    size = max(sum(lengths[b] for b in group) for group in groups)
    pieces = [range(i, min(i + size, n_context)) for i in range(0, n_context, size)]
    ends = n_context + np.cumsum([sum(lengths[b] for b in group) for group in groups])
    of_groups = [range(a, b) for a, b in zip([n_context, *ends], ends, strict=False)]
    queries = [*pieces, *of_groups]
    key_rows = np.zeros((len(queries), n_context + size), dtype=np.int64)
    key_rows[:, :n_context] = np.arange(n_context)
    sees = np.zeros((len(queries), size, n_context + size), dtype=bool)
    sees[:, :, 0] = True  # an empty place sees anything, so that no softmax is over nothing
    for n, piece in enumerate(pieces):
        sees[n, : len(piece), :n_context] = np.tri(n_context, dtype=bool)[piece.start : piece.stop]
    for n, (rows, group) in enumerate(zip(of_groups, groups, strict=True), start=len(pieces)):
        key_rows[n, n_context : n_context + len(rows)] = rows
        sees[n, : len(rows), 0] = n_context > 0
        sees[n, : len(rows), :n_context] = True
        first = 0
        for b in group:
            own = slice(first, first + lengths[b])
            sees[n, own, n_context + own.start : n_context + own.stop] = branches[b].sees
            first = own.stop

    def block(rows_of: Sequence[np.ndarray]) -> Blocks:
        """Of some of the queries' rows, rising."""
        width = max(map(len, rows_of))
        row_at = np.zeros((len(rows_of), width), dtype=np.int64)
        seen = np.zeros((len(rows_of), width, sees.shape[2]), dtype=bool)
        seen[:, :, 0] = True
        place_of = []
        for n, rows in enumerate(rows_of):
            row_at[n, : len(rows)] = rows
            seen[n, : len(rows)] = sees[n][rows - queries[n].start]
            place_of.append(n * width + np.arange(len(rows)))
        hidden = torch.zeros(seen.shape, dtype=backbone.dtype).masked_fill_(~torch.from_numpy(seen), -torch.inf)
        places = torch.from_numpy(np.concatenate(place_of)).to(device)
        return Blocks(torch.from_numpy(row_at).to(device), places, hidden.to(device))

    answers = block([rows_M[(rows_M >= rows.start) & (rows_M < rows.stop)] for rows in queries])
    # The last layer has the asked rows alone, in their order.
    rank_of_row = np.zeros(n_rows, dtype=np.int64)
    rank_of_row[rows_M] = np.arange(len(rows_M))
    by_rank = torch.from_numpy(rank_of_row).to(device)[answers.row_at_NM]
    keys = Blocks(torch.from_numpy(key_rows).to(device), answers.place_of_rows, answers.hidden_NMB)
    layout = RaggedLayout(
        block([np.array(rows) for rows in queries]),
        replace(answers, row_at_NM=by_rank),
        torch.from_numpy(rows_M).to(device),
        n_context + max(depth for branch in branches for depth in branch.depths) + 1,
        keys,
    )
    token_ids = np.array([*context, *(token for branch in branches for token in branch.token_ids)])
    positions = np.array([*range(n_context), *(n_context + depth for branch in branches for depth in branch.depths)])
    no_tasks = TaskRows([0], SharedProducts([]))
    return PlacedBatch(
        torch.from_numpy(token_ids).to(device), torch.from_numpy(positions).to(device), layout, no_tasks, no_tasks
    )


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
