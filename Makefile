# The lab book: each target is one thing a reader of this repository does.
.PHONY: demo test check figures setup
OUT ?= experiments_scaling_law

demo: setup  ## the scaling curve of configs/demo.yaml, from a bare clone
	.venv/bin/reptile-scaling run configs/demo.yaml --out $(OUT)

test: setup  ## all tests
	.venv/bin/python -m pytest -q -n 2 --dist worksteal

check: setup  ## style, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

figures: demo  ## the figures of the README, from the demo's run
	mkdir -p docs/figures
	cp $(OUT)/scaling_law_plot.png $(OUT)/baseline_comparison.png docs/figures/

setup:
	./setup.sh
