"""Several class splits: the run of each, planned before any begins, and the folder above them."""

from reptile_scaling.config import Config
from reptile_scaling.errors import InputError
from reptile_scaling.lab.estimate import CostEstimate, estimate_cost
from reptile_scaling.lab.plan import Plan, plan_sweep
from reptile_scaling.lab.provenance import software_versions
from reptile_scaling.model.loading import base_digest
from reptile_scaling.runs.directory import RunDirectory


def plan_splits(config: Config, folder: RunDirectory) -> dict[str, Plan]:
    """What is left of each split's run, by name; each plan is that of the split alone.

    InputError for anything that cannot work in any of them.
    """
    return {name: _planned(name, own, folder) for name, own in config.split_configs.items()}


def _planned(name: str, config: Config, folder: RunDirectory) -> Plan:
    try:
        return plan_sweep(config, folder.split_run(name))
    except InputError as error:
        raise InputError(f"class split {name}: {error}") from error


def begin_splits(config: Config, plans: dict[str, Plan], folder: RunDirectory) -> None:
    """Takes the folder above the splits' own. InputError if it holds another experiment, and nothing is touched."""
    fingerprint = next(iter(plans.values())).corpus.dataset.fingerprint
    folder.begin(config, fingerprint, software_versions(), base_digest(config))


def estimate_splits(plans: dict[str, Plan], folder: RunDirectory) -> dict[str, CostEstimate]:
    """What is left of each split's run costs, by name; opens the model for each, writes nothing."""
    return {name: estimate_cost(plan, folder.split_run(name)) for name, plan in plans.items()}
