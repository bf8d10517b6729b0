"""The language model as it is: which label's words does it expect next, with and without examples in the prompt?"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch

from reptile_scaling.baselines.baseline import Scores, Tell
from reptile_scaling.config import Config
from reptile_scaling.data.episodes import Episode
from reptile_scaling.data.plain_words import plain_words
from reptile_scaling.errors import InputError
from reptile_scaling.interruption import stop_if_requested
from reptile_scaling.learning.examples import slots
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import Workbench
from reptile_scaling.model.continuations import continuation_scores
from reptile_scaling.model.heads import task_losses
from reptile_scaling.model.label_words import label_tokens
from reptile_scaling.model.lanes import in_lanes, leave_if_abandoned
from reptile_scaling.model.loading import is_encoder
from reptile_scaling.randomness import stream

DEMONSTRATION = "Text: {text}\nIntent: {label}\n\n"
PROMPT = "Text: {text}\nIntent:"
# A label must not win by being a common word: its score after a text that says nothing is taken off.
CONTENT_FREE = "N/A"
TOO_FEW_POSITIONS = "the model has too few positions for a prompt and a label: lower max_length"
UTTERANCES_PER_FORWARD = 32
"""Of the zero-shot scores, about a thousand tokens: lanes share such parts, and progress counts them."""


def zero_shot_labels(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """Mean log-probability of the label's words after the text, calibrated (Zhao et al. 2021, arXiv:2102.09690).

    Tasks share utterances and classes, so each utterance is asked once, for the labels of all its tasks.
    """
    utterances = np.unique(np.concatenate([episode.query.ravel() for episode in episodes]))
    classes = np.unique(np.concatenate([episode.classes for episode in episodes]))
    wanted = np.zeros((len(utterances) + 1, len(classes)), dtype=bool)
    wanted[-1] = True  # the calibration
    places = [(np.searchsorted(utterances, e.query.ravel()), np.searchsorted(classes, e.classes)) for e in episodes]
    for rows, columns in places:
        wanted[np.ix_(rows, columns)] = True
    scores_UC = _zero_shot_scores(workbench, utterances, classes, wanted, tell)
    calibrated_UC = scores_UC[:-1] - scores_UC[-1]
    scored = [_scored(episode, calibrated_UC[np.ix_(*place)]) for episode, place in zip(episodes, places, strict=True)]
    return _as_scores(scored, fewest_shots=0)


def _zero_shot_scores(
    workbench: Workbench, utterances: np.ndarray, classes: np.ndarray, wanted: np.ndarray, tell: Tell
) -> np.ndarray:
    """Of every utterance, and of the text that says nothing in the last row; a column a class, NaN where not wanted."""
    backbone, dataset = workbench.engine.backbone, workbench.corpus.dataset
    labels = [label_tokens(backbone.tokenizer, plain_words(dataset.class_names[c])) for c in classes.tolist()]
    texts = [*(dataset.texts[u] for u in utterances.tolist()), CONTENT_FREE]
    prompts = [_prompt(workbench, text) for text in texts]
    beginning = _beginning(workbench)
    if _room(workbench, prompts, labels) < len(beginning):
        raise InputError(TOO_FEW_POSITIONS)
    parts = np.array_split(np.arange(len(prompts)), -(-len(prompts) // UTTERANCES_PER_FORWARD))
    done = count(1)

    def of_parts(share: slice) -> list[np.ndarray]:
        found = []
        for rows in parts[share]:
            _leave_if_asked()
            own = [prompts[row] for row in rows]
            found.append(continuation_scores(backbone, beginning, own, labels, wanted[rows]))
            tell(next(done), len(parts))
        return found

    lanes = in_lanes(of_parts, range(len(parts)), backbone.device)
    return np.concatenate([scores for lane in lanes for scores in lane])


def in_context(workbench: Workbench, episodes: Sequence[Episode], folder: Path, tell: Tell) -> Scores:
    """The same after the support set, as many shots of each class as the model has positions for, in random order."""
    done = count(1)

    def of_tasks(tasks: slice) -> list[tuple[np.ndarray, int]]:
        found = []
        for number in range(tasks.start, tasks.stop):
            _leave_if_asked()
            found.append(_task_scores(workbench, episodes[number], number))
            tell(next(done), len(episodes))
        return found

    lanes = in_lanes(of_tasks, range(len(episodes)), workbench.engine.backbone.device)
    tasks = [task for lane in lanes for task in lane]
    scored = [_scored(episode, scores) for episode, (scores, _) in zip(episodes, tasks, strict=True)]
    return _as_scores(scored, fewest_shots=min(shots for _, shots in tasks))


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


def _leave_if_asked() -> None:
    stop_if_requested()
    leave_if_abandoned()


def _scored(episode: Episode, scores_QW: np.ndarray) -> tuple[float, float]:
    """A task's accuracy and loss."""
    scores, labels = torch.from_numpy(scores_QW).float(), slots(episode.query, torch.device("cpu"))
    correct = float((scores.argmax(-1) == labels).float().mean())
    return correct, float(task_losses(scores[None], labels[None]))


def _as_scores(scored: Sequence[tuple[float, float]], fewest_shots: int) -> Scores:
    accuracies, losses = zip(*scored, strict=True)
    settings = {"prompt": DEMONSTRATION, "fewest_shots": fewest_shots, "calibrated_by": CONTENT_FREE}
    return Scores(np.array(accuracies), np.array(losses), settings)


def _task_scores(workbench: Workbench, episode: Episode, number: int) -> tuple[np.ndarray, int]:
    """Scores `[Q, W]` of a task's query set after its support set, and the shots of each class that had room."""
    backbone, dataset = workbench.engine.backbone, workbench.corpus.dataset
    words = [plain_words(dataset.class_names[c]) for c in episode.classes]
    labels = [label_tokens(backbone.tokenizer, label) for label in words]
    texts = [dataset.texts[u] for u in episode.query.ravel().tolist()]
    prompts = [_prompt(workbench, text) for text in (*texts, CONTENT_FREE)]
    room, shots = _room(workbench, prompts, labels), workbench.config.k_support
    while len(context := _context(workbench, episode, words, shots, number)) > room:
        if shots == 0:
            raise InputError(TOO_FEW_POSITIONS)
        shots -= 1
    everything = np.ones((len(prompts), len(labels)), dtype=bool)
    scores = continuation_scores(backbone, context, prompts, labels, everything)
    return scores[:-1] - scores[-1], shots


def _context(workbench: Workbench, episode: Episode, words: Sequence[str], shots: int, number: int) -> list[int]:
    """The support utterances with their labels, as tokens; what the tokenizer puts before any text comes first."""
    texts = workbench.corpus.dataset.texts
    shown = [(int(u), words[w]) for w, row in enumerate(episode.support) for u in row[:shots]]
    order = stream(number, "demonstrations").permutation(len(shown))
    told = [DEMONSTRATION.format(text=_cut(workbench, texts[shown[i][0]]), label=shown[i][1]) for i in order.tolist()]
    return _beginning(workbench) + [token for one in told for token in _tokens(workbench, one)]


def _beginning(workbench: Workbench) -> list[int]:
    """What the tokenizer puts before any text."""
    tokens: list[int] = workbench.engine.backbone.tokenizer("")["input_ids"]
    return tokens


def _prompt(workbench: Workbench, text: str) -> list[int]:
    return _tokens(workbench, PROMPT.format(text=_cut(workbench, text)))


def _tokens(workbench: Workbench, text: str) -> list[int]:
    tokens: list[int] = workbench.engine.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def _cut(workbench: Workbench, text: str) -> str:
    """An utterance of `max_length` tokens at most."""
    tokenizer, longest = workbench.engine.backbone.tokenizer, workbench.config.max_length
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    shortened: str = text if len(tokens) <= longest else tokenizer.decode(tokens[:longest])
    return shortened


def _room(workbench: Workbench, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> int:
    """Positions that the longest prompt and label leave."""
    config = workbench.engine.backbone.model.config.get_text_config()
    positions = int(getattr(config, "max_position_embeddings", 2048))
    return positions - max(map(len, prompts)) - max(map(len, labels))
