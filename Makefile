# PYTHON       the interpreter that the environment is made from
# VENV         where the environment lies; it is made on first use
# TORCH_INDEX  package index that torch is installed from, where it is not the default one
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ELSEWHERE := gpu or browser or frameworks or xla
QUICK := not (slow or $(ELSEWHERE))
# Tests wait more than they compute. Those of a file stay together: they share a kernel or a launch.
SPREAD := -n 2 --dist loadfile

.PHONY: help demo lab test test-slow test-search test-gpu test-xla lint types contracts bench
.DELETE_ON_ERROR:

help:
	@echo "make demo       train a small model on two processes, in a real notebook kernel"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make test       the core tests          make test-slow  the long ones"
	@echo "make test-search  the property tests, on examples that were not tried before"
	@echo "make test-gpu   those that need an NVIDIA GPU"
	@echo "make test-xla   those with torch_xla, in an environment of its own (6.5 GB)"
	@echo "make lint       style    make types  types    make contracts  who imports whom"
	@echo "make bench      measure against Hugging Face Accelerate"

demo: $(VENV)/.ready-demo
	$(BIN)/python notebooks/run.py notebooks/01_quickstart.ipynb

lab: $(VENV)/.ready-notebooks
	$(BIN)/python -m jupyter lab notebooks/01_quickstart.ipynb

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest $(SPREAD) -m "$(QUICK)"

test-slow: $(VENV)/.ready-test
	$(BIN)/python -m pytest $(SPREAD) -m "slow and not ($(ELSEWHERE))" || [ $$? -eq 5 ] # 5: there are none

test-search: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m "hypothesis and not ($(ELSEWHERE))" --hypothesis-profile=default

test-gpu: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m gpu

test-xla:
	XLA_VENV=$${XLA_VENV:-.venv-xla} .ci/lanes/xla

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.ready-dev
	$(BIN)/mypy

contracts: $(VENV)/.ready-dev
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.ready-bench
	$(BIN)/python tests/benchmarks/launch.py
	$(BIN)/python tests/benchmarks/relay.py
	$(BIN)/python tests/benchmarks/step.py
	$(BIN)/python tests/benchmarks/data.py
	$(BIN)/python tests/benchmarks/checkpoint.py
	$(BIN)/python tests/benchmarks/panel.py

# One stamp per group of optional dependencies: nothing is installed twice unless what it depends on has changed.
$(VENV)/.ready-test: EXTRAS = test,dev
$(VENV)/.ready-dev: EXTRAS = test,dev
$(VENV)/.ready-%: EXTRAS = $*
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) for: $(EXTRAS)"
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) --index-url "$(TORCH_INDEX)" torch; fi
	@$(PIP) --editable ".[$(EXTRAS)]"
	@touch $@
