"""How the meta-trained initialisation stands against the baselines, paired over the shared test tasks."""

import numpy as np

from reptile_scaling.runs import Cell, RunDirectory


def standing_sentence(run: RunDirectory) -> str:
    """The level of lowest mean loss against every baseline but chance, in accuracy, named by 95 % paired intervals.

    A level's accuracy on a task is the mean over its seeds; the interval is over test tasks. Empty without baselines.
    """
    best, accuracies = _best_level(run)
    verdicts: dict[str, list[str]] = {"beats": [], "is level with": [], "falls short of": []}
    for baseline in run.read_baselines().values():
        if baseline.name == "zero_step":
            continue
        difference = accuracies - np.array(baseline.task_accuracies)
        half_width = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
        gain, error = 100 * float(difference.mean()), 100 * float(half_width)
        verb = "is level with" if abs(gain) <= error else "beats" if gain > 0 else "falls short of"
        verdicts[verb].append(f"{baseline.label} ({baseline.accuracy:.1%}, {gain:+.1f} ± {error:.1f} points)")
    clauses = [f"{verb} {'; '.join(found)}" for verb, found in verdicts.items() if found]
    if not clauses:
        return ""
    return f"Meta-trained on N = {best} tasks ({accuracies.mean():.1%}), it {', and '.join(clauses)}."


def _best_level(run: RunDirectory) -> tuple[int, np.ndarray]:
    """The N of lowest mean loss, and its accuracy on each test task, mean over seeds."""
    results = run.results()
    losses = {n: np.mean([r.meta_test_loss for r in results if r.n_tasks == n]) for n in {r.n_tasks for r in results}}
    best = min(losses, key=lambda n: (losses[n], n))
    tasks = [run.cell(Cell(best, r.seed)).read_test_tasks() for r in results if r.n_tasks == best]
    return best, np.array([[row["accuracy"] for row in rows] for rows in tasks]).mean(0)
