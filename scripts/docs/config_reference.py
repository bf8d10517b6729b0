"""Writes docs/config.md and the JSON Schema beside the presets from the fields of Config.

    python scripts/docs/config_reference.py            writes both
    python scripts/docs/config_reference.py --check    writes nothing, exit code 1 where one is not up to date

Keys, types, defaults and sentences are those of src/reptile_scaling/config.py, groups are its classes of keys.
"""

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

from reptile_scaling.config import MAY_CHANGE, Config, FractionSplit, config_schema, key_groups, keys_with
from reptile_scaling.presets import FOLDER, SCHEMA

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
WIDTH = 118
INTRODUCTION = """\
# Every key of a configuration

Made from `src/reptile_scaling/config.py` by `make docs`; edit there, not here.

A key stands in a YAML file (`reptile-scaling init demo > my.yaml`), behind `--set` (`--set k_inner=3`), or in the dict
that `run_experiment` takes. Each line below gives `key: default`, what it may be, and what it does. A key that is not
given keeps its default. Losses are nats per query utterance.

Keys marked ↻ may change between two starts in the same folder: the grid may grow, the machine may differ. Any other
change is another experiment and wants a folder of its own.
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference() -> str:
    """The whole page."""
    properties = Config.model_json_schema()["properties"]
    parts = [INTRODUCTION]
    for group, keys in key_groups().items():
        parts.append(f"## {group}\n\n" + "".join(entry(k, properties[k]) for k in keys))
    fractions = FractionSplit.model_json_schema()["properties"]
    parts.append("## Fractions of `class_split`\n\n" + "".join(entry(k, fractions[k]) for k in fractions))
    return "\n".join(parts)


def schema() -> str:
    """The JSON Schema as `reptile-scaling schema` prints it."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


def entry(key: str, schema: dict[str, Any]) -> str:
    """One key as a list item."""
    mark = " ↻" if key in keys_with(MAY_CHANGE) else ""
    text = f"- **`{key}: {as_yaml(schema['default'])}`**{mark} ({allowed(schema)}). {schema['description']}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) + "\n"


def as_yaml(value: object) -> str:
    """A value as it stands in a configuration file."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def allowed(schema: dict[str, Any]) -> str:
    """What a key may be, in words."""
    match schema:
        case {"anyOf": [one, {"type": "array", "items": items}]} if one == items:
            return f"{allowed(one)}, or a list of them"
        case {"anyOf": [*ones, {"type": "array", "items": {"anyOf": items}}]} if ones == items:
            return f"{allowed({'anyOf': ones})}, or a list of them"
        case {"anyOf": [*ones, {"type": "null"}]} if len(ones) > 1:
            return f"{allowed({'anyOf': ones})}, or `null`"
        case {"anyOf": choices}:
            return " or ".join(map(allowed, choices))
        case {"$ref": _}:
            return "fractions, see below"
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list: {allowed(items)}"
        case {"type": "integer" | "number" as kind}:
            bounds = [f"{sign} {schema[name]:g}" for name, sign in BOUNDS.items() if name in schema]
            return " ".join(["whole number" if kind == "integer" else "number", ", ".join(bounds)]).strip()
        case {"type": kind}:
            return {"boolean": "`true` or `false`", "null": "`null`", "string": "text", "object": "mapping"}[kind]
    raise AssertionError(schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check, made = parser.parse_args().check, {PAGE: reference(), FOLDER / SCHEMA: schema()}
    for file, content in made.items():
        if not check:
            file.write_text(content, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != content:
            sys.exit(f"error: {file.name} is not what the code says: run `make docs`")


if __name__ == "__main__":
    main()
