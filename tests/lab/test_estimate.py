"""What a dry run promises is what the sweep then does."""

import pytest

import reptile_scaling.learning.evaluation as evaluation
import reptile_scaling.learning.inner_loop as inner_loop
from reptile_scaling.config import Config, make_config
from reptile_scaling.lab.estimate import baseline_work, estimate_cost, evaluation_work, measure_pace, training_work
from reptile_scaling.lab.plan import BaselineJob, Plan, plan_sweep
from reptile_scaling.lab.sweep import run_sweep
from reptile_scaling.learning.evaluation import test_episodes as episodes_of_test
from reptile_scaling.learning.evaluation import validation_episodes
from reptile_scaling.learning.work import Work
from reptile_scaling.learning.workbench import open_workbench
from reptile_scaling.runs.directory import RunDirectory
from reptile_scaling.runs.grid import Cell
from reptile_scaling.runs.records import CellStatus


def test_planned_work_is_the_work_done(toy_settings, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(
        {**toy_settings, "n_tasks_list": [2, 4], "num_meta_steps": 5, "curve_steps": [], "baselines": None}
    )
    run = RunDirectory(tmp_path / "run")
    plan = plan_sweep(config, run)
    done = {"steps": 0, "readings": 0}
    adapt, read = inner_loop.adapt_support, evaluation.read_queries

    def counted_adaptation(support, batch, *watching):
        done["steps"] += support.n_tasks * batch.loop.steps
        return adapt(support, batch, *watching)

    def counted_reading(engine, batch, adapters):
        done["readings"] += len(batch)
        return read(engine, batch, adapters)

    monkeypatch.setattr(inner_loop, "adapt_support", counted_adaptation)
    monkeypatch.setattr(evaluation, "read_queries", counted_reading)
    promised = training_work(plan, run) + evaluation_work(plan)
    run_sweep(Plan(plan.config, plan.corpus, plan.devices, plan.jobs[:1], 0), run)
    # Where the chosen point is the last one, a cell reads the test tasks once and not for each.
    spared = config.num_meta_test_tasks * sum(r.selected_meta_step == r.meta_steps for r in run.results())
    steps = promised.visits * config.k_inner + promised.inner_steps - spared * config.test_steps
    assert done == {"steps": steps, "readings": promised.readings - spared * evaluation.READINGS_PER_TASK}
    # Joint training has no inner steps; its work is told in as many as it equals.
    joint_job, baselines_left = BaselineJob("joint"), plan.jobs[1:]
    joint = Plan(plan.config, plan.corpus, plan.devices, (joint_job,), 0)
    others = Plan(plan.config, plan.corpus, plan.devices, tuple(j for j in baselines_left if j != joint_job), 0)
    run_sweep(joint, run)
    baselines = baseline_work(others)
    before = dict(done)
    run_sweep(others, run)
    # Tuning may settle on fewer steps than it might have, and frozen features are read once for two baselines.
    assert 0.5 * baselines.inner_steps < done["steps"] - before["steps"] <= baselines.inner_steps
    assert done["readings"] - before["readings"] <= baselines.readings
    assert not plan_sweep(config, run).jobs


def test_steps_already_done_are_not_promised_again(toy_config: Config, tmp_path) -> None:
    run = RunDirectory(tmp_path)
    plan = plan_sweep(toy_config, run)
    # 10 cells × 4 meta-steps × 2 tasks.
    assert training_work(plan, run).visits == 80
    run.cell(Cell(8, 1)).write_status(CellStatus("running", meta_step=3, num_meta_steps=4))
    assert training_work(plan, run).visits == 80 - 3 * 2


def test_every_baseline_says_what_it_costs(toy_config: Config, tmp_path) -> None:
    plan = plan_sweep(toy_config, RunDirectory(tmp_path))
    jobs = [job for job in plan.jobs if isinstance(job, BaselineJob)]
    assert jobs
    for job in jobs:
        alone = baseline_work(Plan(plan.config, plan.corpus, plan.devices, (job,), 0))
        assert alone != Work(), job.name


def test_without_inner_steps_an_utterance_is_paid_for_once(toy_settings, tmp_path) -> None:
    """Prototypical networks read all tasks under one set of parameters: a pass costs its distinct utterances."""
    config = make_config({**toy_settings, "algorithm": "protonet", "head": "cosine", "k_inner_test": 0,
                          "curve_steps": [], "baselines": ["no_meta", "nearest_mean"]})  # fmt: skip
    plan = plan_sweep(config, RunDirectory(tmp_path))
    work = evaluation_work(plan)
    n_cells = len(config.n_tasks_list) * len(config.seeds)
    assert work == Work(validation_passes=work.validation_passes, test_passes=2 * n_cells)
    assert work.validation_passes >= n_cells
    assert baseline_work(plan) == Work(test_passes=1 + len(config.seeds))
    workbench = open_workbench(config, plan.corpus, plan.devices[0])
    pace = measure_pace(workbench)
    seconds = pace.seconds_per_test_pass, pace.seconds_per_validation_pass
    distinct = [
        len({int(u) for e in episodes for part in (e.support, e.query) for u in part.ravel()})
        for episodes in (episodes_of_test(workbench), validation_episodes(workbench))
    ]
    assert min(seconds) > 0
    assert seconds[0] / seconds[1] == pytest.approx(distinct[0] / distinct[1])


def test_learner_that_reads_the_query_set_is_timed_by_its_meta_step(toy_config: Config, tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    config = make_config({**toy_config.model_dump(), "algorithm": "fomaml", "baselines": []})
    estimate = estimate_cost(plan_sweep(config, run), run)
    assert 0 < estimate.training < 600 and estimate.baselines == 0


def test_estimate_times_every_part(toy_config: Config, tmp_path) -> None:
    run = RunDirectory(tmp_path / "run")
    estimate = estimate_cost(plan_sweep(toy_config, run), run)
    assert estimate.training > 0 and estimate.evaluation > 0 and estimate.baselines > 0
    assert estimate.total_seconds < 600 and estimate.peak_memory_bytes > 0
    assert not run.path.exists()
