# make reproduce: everything from nothing to the report. make test: lint, types, documentation, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Every stage is a process of its own: one that compiles what it imports takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: chromium test-latex help docs setup reproduce test lint types tests format ui test-slurm soak kills mutants audit

help:
	@echo "make reproduce   set everything up, run the benchmark, print where the report is"
	@echo "make test        set everything up if needed, then lint, types, documentation and tests"
	@echo "make test-latex  compile the LaTeX tables (needs pdflatex and siunitx)"
	@echo "make ui          browse the runs in MLflow on this machine; another port: make ui PORT=5001"
	@echo "make docs        the documentation as a site, in site/ (open site/index.html)"
	@echo "make format      format the code; write the schema of the settings and the lists in docs/report.md"
	@echo "make setup       only the virtual environment $(VENV)"
	@echo "make test-slurm  the workflow on a Slurm of this one machine (root; apt-get install slurm-wlm munge)"
	@echo "make kills       20 kills of a bundle in training: its records must be the same bits (some minutes)"
	@echo "make soak        50 kills, of all stages, then plain runs: the numbers must be the same (40 minutes)"
	@echo "make mutants     break the code in 600 places, one at a time: do the tests notice? (an hour; tests/README.md)"
	@echo "make audit       known vulnerabilities in the pinned packages"

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fdl: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "fdl: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

reproduce: $(READY)
	snakemake --cores all
	@python -m fdl report --show

test: lint types docs tests

lint: $(READY)
	ruff check .
	ruff format --check .
	snakefmt --check workflow
	snakemake --lint
	lint-imports --no-cache --no-logo

types: $(READY)
	mypy

tests: $(READY) chromium
	python -m pytest --numprocesses auto

format: $(READY)
	ruff check --fix .
	ruff format .
	snakefmt workflow
	python -c "import json; from fdl.core.settings import json_schema; print(json.dumps(json_schema(), indent=1))" > workflow/schemas/params.schema.json
	python -m fdl.reporting.documentation docs/report.md

PORT ?= 5000
# The warning is about MLflow's own code, and each of its processes gives it.
ui: $(READY)
	@python -m fdl.tracking.links http://127.0.0.1:$(PORT) sqlite:///mlflow.db
	PYTHONWARNINGS='ignore:starlette.middleware.wsgi' MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
		mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db

docs: $(READY)
	uv pip install --quiet --python $(BIN)/python --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

test-slurm: $(READY)
	uv pip install --quiet --python $(BIN)/python --editable '.[slurm]'
	FDL_TEST_SLURM=1 python -m pytest tests/slurm -v

kills: $(READY)
	@rm -rf scratch/kills
	python -m tests.faults.kill_training --kills 20 --folder scratch/kills

SOAK_KILLS ?= 50
soak: $(READY)
	@rm -rf scratch/soak
	python -m tests.faults.soak --kills $(SOAK_KILLS) --folder scratch/soak

MUTANTS ?= 40
mutants: $(READY)
	python -m tests.mutants --most $(MUTANTS)

audit: $(READY)
	uv tool run --quiet pip-audit --strict --requirement requirements.txt --no-deps --disable-pip

# What some tests need of Debian: installed by root, else named; without it those tests are skipped.
define debian
@$(1) > /dev/null || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	then apt-get -qq update && apt-get -qq install --yes --no-install-recommends $(2) > /dev/null \
		|| echo "fdl: apt-get could not install $(2): $(3) are skipped" >&2; \
	else echo "fdl: $(3) are skipped; on Debian: apt-get install $(2)" >&2; fi; }
endef

chromium:
	$(call debian,command -v chromium,chromium,the tests of the page in a browser)

test-latex: $(READY)
	$(call debian,kpsewhich siunitx.sty 2>&1,texlive-latex-recommended texlive-science,the tests of the LaTeX tables)
	python -m pytest --numprocesses 0 -rs tests/reporting/test_latex.py
