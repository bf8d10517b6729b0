"""Spoken home-automation commands, sampled from the sentence templates of the `home-assistant-intents` wheel.

A class is intent × domain (`TurnOn-light`), about 90 of them. The templates are expanded at random with
`hassil`'s own parser; the names of rooms and things, which a home would supply, are the word lists below.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from reptile_scaling.data.dataset import IntentDataset, make_dataset
from reptile_scaling.errors import InputError
from reptile_scaling.randomness import stream

UTTERANCES_PER_CLASS = 50
# Below this a class is a handful of fixed phrases ("never mind") and its support set would hold its query set.
FEWEST_UTTERANCES = 30
# A class of few templates repeats itself; so many draws without a new utterance and it is taken as exhausted.
PATIENCE = 400

HOME_WORDS: dict[str, tuple[str, ...]] = {
    "area": (
        "kitchen",
        "living room",
        "bedroom",
        "bathroom",
        "garage",
        "office",
        "hallway",
        "garden",
        "attic",
        "nursery",
    ),
    "floor": ("ground floor", "first floor", "second floor", "basement", "upstairs", "top floor"),
    "message": ("dinner is ready", "we leave in ten minutes", "the movie starts now", "please come down", "good night"),
    "search_query": (
        "jazz",
        "the latest news podcast",
        "Abbey Road",
        "Bohemian Rhapsody",
        "Miles Davis",
        "rain sounds",
    ),
    "zone": ("home", "work", "school", "the gym", "the office", "the park"),
    "timer_name": ("pizza", "laundry", "tea", "egg", "workout", "homework", "bread", "nap"),
    "timer_command": ("turn off the lights", "open the garage door", "stop the music", "lock the front door"),
    "shopping_list_item": (
        "milk",
        "eggs",
        "bread",
        "coffee",
        "apples",
        "batteries",
        "soap",
        "rice",
        "cheese",
        "butter",
    ),
    "todo_list_item": (
        "call mom",
        "water the plants",
        "pay the rent",
        "walk the dog",
        "clean the oven",
        "book a flight",
    ),
    "name": (
        "party lamp",
        "desk lamp",
        "ceiling fan",
        "coffee maker",
        "heater",
        "kitchen display",
        "tower fan",
        "kettle",
    ),
}
NAMES_OF_DOMAIN: dict[str, tuple[str, ...]] = {
    "light": ("desk lamp", "ceiling light", "bedside lamp", "floor lamp", "porch light", "chandelier", "mirror light"),
    "fan": ("ceiling fan", "tower fan", "desk fan", "exhaust fan", "attic fan", "box fan"),
    "switch": ("coffee maker", "kettle", "heater", "wall socket", "water pump", "charger"),
    "cover": ("left curtain", "garage door", "roller blind", "bay window shade", "patio awning", "skylight shutter"),
    "lock": ("front door", "back door", "side gate", "cellar door", "shed door", "garden gate"),
    "person": ("Alice", "Bob", "Carmen", "David", "Emma", "Frank"),
    "binary_sensor": ("phone battery", "leak detector", "front motion sensor", "smoke alarm", "window contact"),
    "climate": ("thermostat", "air conditioner", "heat pump", "radiator", "underfloor heating"),
    "media_player": ("TV", "soundbar", "kitchen speaker", "record player", "projector", "radio"),
    "vacuum": ("robot vacuum", "rover", "dusty", "roomba", "sweeper", "hoover bot"),
    "lawn_mower": ("lawn robot", "mower", "grass cutter", "garden rover", "mowbot"),
    "valve": ("sprinkler valve", "water main", "irrigation valve", "gas valve", "radiator valve"),
    "scene": ("movie night", "good morning", "party", "relax", "bedtime", "romantic dinner"),
    "script": ("wake up routine", "leaving home", "vacation mode", "cleaning day", "coffee break"),
    "button": ("doorbell", "restart router", "feed the cat", "reset filter", "panic button"),
    "todo": ("chores list", "weekend plan", "work tasks", "packing list", "party plan"),
    "weather": ("Berlin", "Lisbon", "Oslo", "Boston", "Tokyo", "Nairobi"),
    "sensor": ("outdoor sensor", "humidity sensor", "power meter", "rain gauge", "air monitor"),
}


def read_home_assistant() -> IntentDataset:
    """At most 50 utterances per class, the same on every machine for one version of the wheel."""
    templates = _read_templates()
    sampled = {
        class_name: _sample_class(class_name, blocks, templates)
        for class_name, blocks in sorted(_blocks_by_class(templates).items())
    }
    rows = [(text, name) for name, texts in sampled.items() if len(texts) >= FEWEST_UTTERANCES for text in texts]
    n_small = sum(len(texts) < FEWEST_UTTERANCES for texts in sampled.values())
    dataset = make_dataset("home_assistant", rows)
    note = f"{n_small} classes of fewer than {FEWEST_UTTERANCES} distinct utterances are left out"
    return replace(dataset, notes=(*dataset.notes, note))


def _read_templates() -> dict[str, Any]:
    spec = find_spec("home_assistant_intents")
    if spec is None or find_spec("hassil") is None or not spec.submodule_search_locations:
        raise InputError(
            "dataset 'home_assistant' needs the packages home-assistant-intents and hassil: "
            "run pip install home-assistant-intents hassil"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "en.json"
    templates: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return templates


def _blocks_by_class(templates: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The template blocks of each intent × domain; `anything` where a block names no domain."""
    classes: dict[str, list[dict[str, Any]]] = {}
    for intent, content in templates["intents"].items():
        for block in content["data"]:
            domains = "+".join(_domains(block)) or "anything"
            classes.setdefault(f"{intent.removeprefix('Hass')}-{domains}", []).append(block)
    return classes


def _domains(block: dict[str, Any]) -> list[str]:
    domain = block.get("slots", {}).get("domain") or block.get("requires_context", {}).get("domain") or []
    return [domain] if isinstance(domain, str) else domain


def _sample_class(class_name: str, blocks: list[dict[str, Any]], templates: dict[str, Any]) -> list[str]:
    """Distinct utterances: a block, then one of its sentences, then an expansion, each uniformly at random."""
    rng = stream(0, "home_assistant", class_name)
    texts: dict[str, None] = {}  # a dict keeps the order of the draws
    misses = 0
    while len(texts) < UTTERANCES_PER_CLASS and misses < PATIENCE:
        block = blocks[rng.integers(len(blocks))]
        sentence = block["sentences"][rng.integers(len(block["sentences"]))]
        text = " ".join(_Expander(templates, block, rng).expand_text(sentence).split())
        misses = misses + 1 if text in texts else 0
        texts[text] = None
    return list(texts)


@cache
def _parse(template: str) -> Any:
    from hassil import parse_sentence  # the demo extra; absent in a plain install

    return parse_sentence(template).expression


class _Expander:
    """Draws one expansion of a sentence template; rules and lists of the block come before the shared ones."""

    def __init__(self, templates: dict[str, Any], block: dict[str, Any], rng: np.random.Generator) -> None:
        self._rules = {**templates["expansion_rules"], **block.get("expansion_rules", {})}
        self._lists = {**templates["lists"], **block.get("lists", {})}
        self._domains = _domains(block)
        self._rng = rng

    def expand_text(self, template: str) -> str:
        return self._expand(_parse(template))

    def _expand(self, node: Any) -> str:
        from hassil import expression as grammar

        match node:
            case grammar.TextChunk():
                return str(node.original_text)
            case grammar.Alternative():
                return self._expand(node.items[self._rng.integers(len(node.items))])
            case grammar.Permutation():
                return " ".join(self._expand(node.items[i]) for i in self._rng.permutation(len(node.items)))
            case grammar.Group():
                return "".join(map(self._expand, node.items))
            case grammar.RuleReference():
                return self.expand_text(self._rules[node.rule_name])
            case grammar.ListReference():
                return self._draw_from_list(node.list_name)
        raise AssertionError(f"unknown template node {node!r}")

    def _draw_from_list(self, name: str) -> str:
        content = self._lists.get(name, {})
        if "values" in content:
            value = content["values"][self._rng.integers(len(content["values"]))]
            return self.expand_text(value["in"] if isinstance(value, dict) else value)
        if "range" in content:
            span = content["range"]
            return str(self._rng.choice(np.arange(span["from"], span["to"] + 1, span.get("step", 1))))
        words = self._words(name)
        return words[self._rng.integers(len(words))]

    def _words(self, name: str) -> tuple[str, ...]:
        """Words for a list the home would fill; things are named after the block's domain."""
        if name == "name":
            return (
                tuple(word for domain in self._domains for word in NAMES_OF_DOMAIN.get(domain, ()))
                or HOME_WORDS["name"]
            )
        return HOME_WORDS[name]
