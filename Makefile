# Each target sets up what it needs by itself, once: a virtual environment in .venv with the versions of constraints.txt.
# Nothing but pip uses the network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml constraints.txt
DEMO := .reconciler/demo
JOBS ?= 2
MINUTES ?= 10
KILLS ?= 200
HISTORIES ?= 5000
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check fix bench soak fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## set up, run the quickstart example from nothing, show its status
	@rm -rf $(DEMO)
	$(BIN)/reconciler run --once examples/quickstart --state-dir $(DEMO)
	@echo
	$(BIN)/reconciler status --state-dir $(DEMO)
	@echo
	@echo "A host's log: $(BIN)/reconciler logs patch-web web-1 --state-dir $(DEMO)"

test: $(VENV)/.test ## set up, run every test (ARGS='-k waves -x', JOBS=4)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/.dev ## lint, format, types, layers, published contracts and dashboards; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/reconciler specs --check
	$(BIN)/python -m specs.grafana.dashboards --check

fix: $(VENV)/.dev ## what can be put right by itself: lint, format, published contracts
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/reconciler specs
	$(BIN)/python -m specs.grafana.dashboards

bench: $(VENV)/.test ## the measurements of docs/performance.md (ARGS='--help')
	$(BIN)/python -m tests.bench $(ARGS)

soak: $(VENV)/.test ## half an hour of crashes, real ones (KILLS=200 on each database) and simulated ones (HISTORIES=5000)
	SOAK_KILLS=$(KILLS) SIMULATIONS=$(HISTORIES) $(BIN)/python -m pytest -n $(JOBS) -rA --show-capture=all tests/crashes/test_at_random.py tests/simulation

fuzz: $(VENV)/.fuzz ## throw odd inputs at all that reads them (MINUTES=10 in all, ARGS='events spool' for some)
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --jobs $(JOBS) $(ARGS)

clean: ## remove what the other targets made
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- setting up ------------------------------------------------------------------------------------------------------
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "reconciler needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	    { echo "'$(PYTHON)' can't make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.test

$(VENV)/.fuzz: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --only-binary atheris --editable '.[test,fuzz]'
	@touch $@ $(VENV)/.demo $(VENV)/.test
