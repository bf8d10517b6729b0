"""What several commands print: a law, and baselines that failed."""

from typing import TYPE_CHECKING

from reptile_scaling.cli.options import console

if TYPE_CHECKING:
    from reptile_scaling.laws import Law


def print_law(law: "Law") -> None:
    """The table of forms, then the verdict with its reasons."""
    from reptile_scaling.laws import verdict_sentence
    from reptile_scaling.report.tables import law_table

    console.print(law_table(law))
    console.print(verdict_sentence(law), style="bold", soft_wrap=True, markup=False)
    for reason in [*law.verdict.reasons, *law.warnings]:
        console.print(f"  - {reason}", soft_wrap=True, markup=False)


def baseline_failure_lines(failures: dict[str, str]) -> list[str]:
    """A line for each."""
    return [f"baseline {name} failed: {reason}" for name, reason in failures.items()]
