"""No tracked file is larger than 500 kB: checkpoints, data and drafts of figures stay out of the repository.

    python scripts/repository/file_sizes.py

Prints every file that is larger and ends with exit code 1; silent otherwise.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGEST_KB = 500


def too_large(paths: list[Path]) -> list[str]:
    """A sentence for each file above the limit; what is not on the disk has no size."""
    sizes = [(path, path.stat().st_size / 1000) for path in paths if path.is_file()]
    return [
        f"{path} has {size:.0f} kB and the limit is {LARGEST_KB}: make it smaller, or let a command make it again"
        for path, size in sizes
        if size > LARGEST_KB
    ]


def tracked() -> list[Path]:
    """The files of the index, also those that are only staged."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = too_large(tracked())
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
