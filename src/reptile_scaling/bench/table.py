"""The bench's figures for a terminal."""

from typing import Any

from rich.table import Table

RATIOS = {
    "ratio_vs_best_peer": "engine, fp32, all layers: times faster than the best peer",
    "ratio_vs_sequential_peft": "  … than sequential PEFT",
    "ratio_vs_padded_loop": "  … than the loop padded to 64",
    "ratio_topk_vs_sequential_peft": "engine, fp32, top layers and cache: times faster than sequential PEFT on them",
    "ratio_native_vs_best_peer": "engine, native precision, all layers: times faster than the best peer (fp32)",
    "ratio_native_vs_sequential_peft": "  … than sequential PEFT",
    "ratio_native_vs_padded_loop": "  … than the loop padded to 64",
    "fraction_of_floor": "engine, fp32, all layers: share of the measured matrix-multiply rate",
}


def bench_table(result: dict[str, Any]) -> Table:
    """A row per program."""
    table = Table(
        title=f"{result['work']['n_tasks']} tasks × {result['work']['inner_steps']} inner steps", title_justify="left"
    )
    for column in ("program", "precision", "tasks/s", "tokens/s", "memory, MB", "predicted", "loss diff.", "of floor"):
        table.add_column(column)
    for v in result["variants"]:
        floor = f"{v['fraction_of_floor']:.0%}" if v["fraction_of_floor"] is not None else ""
        speed = (f"{v['tasks_per_s']:.3g}", f"{v['tokens_per_s']:.0f}", f"{v['peak_memory_bytes'] / 1e6:.0f}")
        predicted = f"{v['predicted_memory_bytes'] / 1e6:.0f}" if v["predicted_memory_bytes"] is not None else ""
        table.add_row(v["label"], v["precision"], *speed, predicted, f"{v['max_abs_loss_diff']:.1e}", floor)
    return table


def ratio_lines(result: dict[str, Any]) -> list[str]:
    """The contract's ratios in words."""
    return [f"{result[key]:6.2f}  {words}" for key, words in RATIOS.items()]


def scaling_table(scaling: dict[str, Any]) -> Table:
    """Seconds of an inner step per task, over tasks that share it and over cells."""
    peer = scaling["sequential_peft_seconds_per_task_step"]
    title = f"one inner step, per task (sequential PEFT, fp32: {peer:.2f} s)"
    table = Table(title=title, title_justify="left")
    for column in ("precision", "cells", "tasks per step", "s per task", "of floor"):
        table.add_column(column)
    for row in [*scaling["tasks"], *scaling["cohorts"]]:
        figures = (f"{row['seconds_per_task_step']:.3f}", f"{row['fraction_of_floor']:.0%}")
        table.add_row(row["precision"], str(row["cells"]), str(row["tasks_per_step"]), *figures)
    return table
