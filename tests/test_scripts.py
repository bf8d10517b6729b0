"""What the experiment scripts ask for is what the program takes, before an hour has been spent on it."""

import runpy
from pathlib import Path

import pytest

from reptile_scaling.baselines.joint import joint_config
from reptile_scaling.config import load_config, make_config
from reptile_scaling.lab.plan import baseline_names

ROOT = Path(__file__).parents[1]


def test_methods_are_valid_and_pass_equally_many_utterances() -> None:
    names = runpy.run_path(str(ROOT / "scripts" / "compare_methods.py"))
    methods, passes_per_visit, meta_steps = names["methods"](), names["passes_per_visit"], names["meta_steps"]
    base = load_config(names["CONFIG"])
    budget = base.num_meta_steps * passes_per_visit(base)
    assert names["REFERENCE"] in methods
    for choices in methods.values():
        assert len(choices) == 3
        for settings in choices:
            config = make_config({**base.model_dump(), **settings})
            passes = passes_per_visit(config)
            assert meta_steps(base, config) * passes == pytest.approx(budget, abs=passes)


def test_parts_of_the_experiment_are_valid_and_joint_training_passes_as_much() -> None:
    names = runpy.run_path(str(ROOT / "scripts" / "banking77_experiment.py"))
    base = load_config(names["CONFIG"])
    for settings in names["PARTS"].values():
        config = make_config({**base.model_dump(), **settings})
        assert config.baselines is None or set(config.baselines) == set(baseline_names(config))
        if config.algorithm == "joint":
            assert config.num_meta_steps == joint_config(base).num_meta_steps


def test_pilot_tries_values_that_a_config_takes() -> None:
    keys = runpy.run_path(str(ROOT / "scripts" / "pilot.py"))["KEYS"]
    base = load_config(ROOT / "configs" / "banking77_smollm2.yaml")
    for key, values in keys.items():
        for value in values:
            assert getattr(make_config({**base.model_dump(), key: value}), key) == value
