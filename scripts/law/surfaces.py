"""What visits, inner steps and classes do to the law of a run, seconds.

    python scripts/law/surfaces.py [folder of a run] [folders of runs that differ from it in their classes alone]

L(N, visits) from every validation of every cell of the first run, L(N, inner steps) from its adaptation curves on the
test tasks, L(N, classes) from all runs together. The committed runs are unpacked by scripts/experiment/part_tables.py.
Prints each sentence and its answers; writes results/law/surfaces.json.
"""

import argparse
import json
from pathlib import Path

from reptile_scaling.analysis.surfaces_of_run import surfaces_of_run
from reptile_scaling.runs.directory import RunDirectory


def main(folders: list[Path]) -> None:
    runs = [RunDirectory(folder) for folder in folders]
    together = surfaces_of_run(*runs)
    found = surfaces_of_run(runs[0]) | {name: s for name, s in together.items() if name == "classes"}
    for name, surface in found.items():
        law = surface.law
        print(f"{name}: {law.verdict}; {law.sentence} misfit {law.misfit:.1%}", *law.warnings, sep="\n  ")
        for answer, (value, low, high) in law.answers.items():
            print(f"  {answer} = {value:.3g} [{low:.3g}, {high:.3g}]")
    Path("results/law/surfaces.json").write_text(
        json.dumps({name: surface.law.as_json() for name, surface in found.items()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", default=[Path("runs/findings/banking77_smollm2")])
    main(parser.parse_args().folders)
