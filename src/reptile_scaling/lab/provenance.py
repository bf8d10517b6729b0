"""Which software a result was computed with."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

RECORDED_PACKAGES = ("reptile-scaling-law", "torch", "transformers", "peft", "numpy", "scipy")


def software_versions() -> dict[str, str]:
    """Versions that a result may depend on; the git commit too where the package runs from a checkout."""
    found = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version(), **found, **_git_commit()}


def _git_commit() -> dict[str, str]:
    here = Path(__file__).parent
    describe = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        asked = subprocess.run(describe, capture_output=True, text=True, timeout=10)
        tracked = subprocess.run(["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # Installed into some other project's checkout, that project's commit says nothing.
    return {"git commit": asked.stdout.strip()} if asked.returncode == 0 == tracked.returncode else {}
