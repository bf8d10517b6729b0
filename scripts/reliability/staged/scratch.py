"""A folder for files that are written a million times."""

import os
import tempfile
from pathlib import Path


def scratch() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a folder: a million small files are written."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
