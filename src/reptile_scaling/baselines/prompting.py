"""The language model as it is: which label's words does it expect next, with and without examples in the prompt?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reptile_scaling.baselines.baseline import Scores
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.continuations import continuation_scores
from reptile_scaling.model.heads import task_losses
from reptile_scaling.model.label_words import label_tokens, plain_words
from reptile_scaling.model.lanes import in_lanes, leave_if_abandoned
from reptile_scaling.model.loading import is_encoder
from reptile_scaling.randomness import stream

DEMONSTRATION = "Text: {text}\nIntent: {label}\n\n"
PROMPT = "Text: {text}\nIntent:"
# A label must not win by being a common word: its score after a text that says nothing is taken off.
CONTENT_FREE = "N/A"


def zero_shot_labels(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """Mean log-probability of the label's words after the text, calibrated (Zhao et al. 2021, arXiv:2102.09690)."""
    return _prompted(workbench, episodes, shots=0)


def in_context(workbench: Workbench, episodes: Sequence[Episode], folder: Path) -> Scores:
    """The same after the support set, as many shots of each class as the model has positions for, in random order."""
    return _prompted(workbench, episodes, shots=workbench.config.k_support)


def has_next_word(config: Config) -> bool:
    """Whether the model can be asked for its next word, which an encoder has none of."""
    return not is_encoder(config.model_name, config.model_revision)


def zero_shot_work(config: Config) -> Work:
    """Each query utterance, and each label after it."""
    return Work(whole_forwards=2 * config.num_meta_test_tasks * config.n_way * config.k_query)


def in_context_work(config: Config) -> Work:
    """The support set besides."""
    support = config.num_meta_test_tasks * config.n_way * config.k_support
    return zero_shot_work(config) + Work(whole_forwards=support)


def _prompted(workbench: Workbench, episodes: Sequence[Episode], shots: int) -> Scores:
    def of_tasks(tasks: slice) -> list[tuple[float, float, int]]:
        rows = []
        for number in range(tasks.start, tasks.stop):
            stop_if_requested()
            leave_if_abandoned()
            scores, used = _task_scores(workbench, episodes[number], shots, number)
            labels = slots(episodes[number].query, scores.device)
            correct = float((scores.argmax(-1) == labels).float().mean())
            rows.append((correct, float(task_losses(scores[None], labels[None])), used))
        return rows

    lanes = in_lanes(of_tasks, range(len(episodes)), workbench.engine.backbone.device)
    accuracies, losses, used = zip(*(row for rows in lanes for row in rows), strict=True)
    settings = {"prompt": DEMONSTRATION, "fewest_shots": min(used), "calibrated_by": CONTENT_FREE}
    return Scores(np.array(accuracies), np.array(losses), settings)


def _task_scores(workbench: Workbench, episode: Episode, shots: int, number: int) -> tuple[torch.Tensor, int]:
    """Scores `[Q, W]` of a task's query set, and the shots of each class that had room."""
    backbone, dataset = workbench.engine.backbone, workbench.corpus.dataset
    tokenizer = backbone.tokenizer
    words = [plain_words(dataset.class_names[c]) for c in episode.classes]
    labels = [label_tokens(tokenizer, label) for label in words]
    texts = [dataset.texts[u] for u in episode.query.ravel().tolist()]
    prompts = [_tokens(workbench, PROMPT.format(text=_cut(workbench, text))) for text in (*texts, CONTENT_FREE)]
    room = _positions(workbench) - max(map(len, prompts)) - max(map(len, labels))
    while True:
        context = _context(workbench, episode, words, shots, number)
        if len(context) <= room:
            break
        if shots == 0:
            raise InputError("the model has too few positions for a prompt and a label: lower max_length")
        shots -= 1
    scores = continuation_scores(backbone, context, prompts, labels).float()
    return scores[:-1] - scores[-1], shots


def _context(workbench: Workbench, episode: Episode, words: Sequence[str], shots: int, number: int) -> list[int]:
    """The support utterances with their labels, as tokens; what the tokenizer puts before any text comes first."""
    texts = workbench.corpus.dataset.texts
    shown = [(int(u), words[w]) for w, row in enumerate(episode.support) for u in row[:shots]]
    order = stream(number, "demonstrations").permutation(len(shown))
    told = [DEMONSTRATION.format(text=_cut(workbench, texts[shown[i][0]]), label=shown[i][1]) for i in order.tolist()]
    beginning: list[int] = workbench.engine.backbone.tokenizer("")["input_ids"]
    return beginning + [token for one in told for token in _tokens(workbench, one)]


def _tokens(workbench: Workbench, text: str) -> list[int]:
    tokens: list[int] = workbench.engine.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def _cut(workbench: Workbench, text: str) -> str:
    """An utterance of `max_length` tokens at most."""
    tokenizer, longest = workbench.engine.backbone.tokenizer, workbench.config.max_length
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    shortened: str = text if len(tokens) <= longest else tokenizer.decode(tokens[:longest])
    return shortened


def _positions(workbench: Workbench) -> int:
    config = workbench.engine.backbone.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", 2048))
