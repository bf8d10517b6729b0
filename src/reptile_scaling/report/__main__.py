"""`python -m reptile_scaling.report DIR`: the page of a run that is going on; prints the verdict's sentence."""

import sys
from pathlib import Path

from reptile_scaling.laws import verdict_sentence
from reptile_scaling.report import write_report
from reptile_scaling.runs.directory import RunDirectory

if __name__ == "__main__":
    print(verdict_sentence(write_report(RunDirectory(Path(sys.argv[1])), is_running=True)))
