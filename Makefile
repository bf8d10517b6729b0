# The lab book: each target is one thing a reader of this repository does.
.PHONY: demo test endurance check figures findings coverage docs help setup
OUT ?= experiments_scaling_law
PYTEST = .venv/bin/python -m pytest -q -n 2 --dist worksteal

demo: setup  ## the scaling curve of the preset demo, from a bare clone
	.venv/bin/reptile-scaling run demo --out $(OUT)

test: setup  ## the tests of ten minutes on two cores
	$(PYTEST) -m "not endurance"

endurance: setup  ## the other tests: sweeps that are killed, cut, starved, spread over processes and clusters
	$(PYTEST) -m endurance

check: setup  ## style, types, spelling, sizes, the configuration's page; what pre-commit runs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/codespell
	.venv/bin/python scripts/repository/file_sizes.py
	.venv/bin/python scripts/docs/config_reference.py --check

figures: setup  ## the figures of the findings, from results/
	.venv/bin/python scripts/experiment/findings.py results --figure docs/figures/findings_banking77.png > /dev/null
	.venv/bin/python scripts/experiment/over_splits.py results/minilm --figure docs/figures/findings_minilm.png > /dev/null
	.venv/bin/python scripts/experiment/over_splits.py results/words --steps-figure docs/figures/findings_steps.png > /dev/null
	.venv/bin/python scripts/experiment/mission.py results --figure docs/figures/findings_mission.png > /dev/null

findings: setup  ## the tables of both pages of findings from results/, and a page of each part in runs/findings/
	.venv/bin/python scripts/experiment/findings.py results --pages runs/findings
	.venv/bin/python scripts/experiment/early_stopping.py runs/findings/banking77_smollm2
	.venv/bin/python scripts/experiment/expectations.py runs/findings/banking77_smollm2
	.venv/bin/python scripts/experiment/over_splits.py results/minilm
	.venv/bin/python scripts/experiment/over_splits.py results/words
	.venv/bin/python scripts/experiment/over_splits.py results/words_clinc150
	.venv/bin/python scripts/experiment/over_splits.py results/minilm_clinc150
	.venv/bin/python scripts/experiment/over_splits.py results/minilm_320
	.venv/bin/python scripts/experiment/over_splits.py results/minilm_maml --beside results/minilm
	.venv/bin/python scripts/experiment/names.py results/names
	.venv/bin/python scripts/experiment/classes.py results/classes_clinc150.csv
	.venv/bin/python scripts/experiment/learners.py results/learners
	.venv/bin/python scripts/experiment/across.py results/across.csv
	.venv/bin/python scripts/experiment/mission.py results

coverage: setup  ## all tests, and which lines and branches none of them takes
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

docs: setup  ## docs/config.md and the schema of a configuration from the code; all pages as a site in site/
	.venv/bin/python scripts/docs/config_reference.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	./setup.sh
