# make demo and make test are all that a newcomer needs: both create .venv, install what they need
# in the versions of constraints.txt, and install nothing again while pyproject.toml, setup.py and
# constraints.txt stay as they are.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first of these that is Python 3.11 or newer; or say which: make test PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt
PINS := pyproject.toml setup.py constraints.txt

COMPILE_ARGS ?= examples/mos_m.pt --target cpu
PYTEST_ARGS ?=
# Which tests: all but the matrix (CONTRIBUTING.md says what belongs there). MARKS= takes all.
MARKS ?= not matrix
# One process per processor; a file's tests stay together, since they share what took long to make.
# The files keep their order, since the long ones (tests/e2e, tests/integration) come first there.
# PYTEST_WORKERS=0 runs them one after the other, as a debugger needs it.
PYTEST_WORKERS ?= logical

.PHONY: help demo regress test test-matrix lint unit docs wheel clean

help: ## say what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: .venv/.core ## compile a trained network for this machine's CPU
	.venv/bin/edgemtl compile $(COMPILE_ARGS)

# Latency is only reported: the machines that run this are shared with others.
regress: .venv/.core ## hold an example against its committed figures
	.venv/bin/edgemtl compile examples/mos_m.pt --target cpu -o build/regress
	.venv/bin/edgemtl gate build/regress --baseline examples/baselines/mos_m-cpu.json \
		--set gates.regression.max_latency=false --set gates.regression.max_p99=false \
		--junit build/regress/regression.xml

test: lint unit ## style, types and the tests, except those of test-matrix
	@echo "make test passed. The tests that need many runs (the matrix) are left: make test-matrix"

test-matrix: ## the tests that make test leaves out: long loops, every combination
	@$(MAKE) --no-print-directory unit MARKS=matrix

lint: .venv/.dev ## format, style, types, direction of imports
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	.venv/bin/lint-imports

unit: .venv/.dev ## the tests alone; a part of them: make unit PYTEST_ARGS=tests/unit/tasks
	$(RUN) pytest -n $(PYTEST_WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m "$(MARKS)" $(PYTEST_ARGS)

docs: .venv/.dev ## the documentation as a site in build/site, with docs/api from the docstrings
	$(RUN) tools.build_docs
	$(RUN) tools.build_site

wheel: .venv/.dev ## the package as one file in dist/, with targets, calibration pictures and an example
	$(RUN) pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove what was built; .venv and runs/ stay
	rm -rf build dist docs/api *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The files .made, .core and .dev are stamps: written last, so that what was interrupted runs again.
.venv/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; where is it? make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.core: .venv/.made $(PINS)
	@echo "Installing the core into .venv (some minutes the first time) ..."
	$(INSTALL) -e .
	@touch $@

.venv/.dev: .venv/.made $(PINS)
	@echo "Installing the core and what the tests need into .venv (some minutes the first time) ..."
	$(INSTALL) -e '.[dev,openvino,tvm,farm]'
	@touch .venv/.core $@
