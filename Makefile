# Every target does its own set-up: a virtual environment in .venv with the pinned set of constraints.txt.
# The first call takes some minutes (mostly downloading torch); later calls go straight to work.
#
#   PYTHON       the interpreter to build .venv with            make demo PYTHON=python3.12
#   ARGS         passed on to the command                       make demo ARGS="--pairs 40"
#   TORCH_FLAGS  where pip finds torch                          make demo TORCH_FLAGS="--index-url URL"
#
# torch is installed first and by itself, because it is the one package that comes in several builds. What
# plain `pip install torch` takes depends on the platform (on Linux usually a CUDA build of some gigabytes).
# pytorch.org/get-started lists the index URL of each build, CPU-only ones included: give it in TORCH_FLAGS,
# or install another version afterwards with `.venv/bin/pip install torch==...`; nothing here undoes that
# until pyproject.toml or constraints.txt changes.

PYTHON      ?= python3
ARGS        ?=
TORCH_FLAGS ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP_INSTALL := -m pip install -qq -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test suite accept docs bench ranges families calibration hub-check wheel-check package lint style types format clean check-python

help:
	@echo 'make demo         one claim on fourteen small models, with a report    (ARGS="..." is passed on)'
	@echo 'make test         style, types and the test-suite                      (ARGS="..." goes to pytest)'
	@echo 'make accept       the same with the slow acceptance checks, and the wheel in a clean environment'
	@echo 'make docs         the site, offline, in docs/_build/site; broken links and notebooks that fail end it'
	@echo 'make bench        headlab beside its peers, and docs/benchmarks.md from it (ARGS="--list" tells more)'
	@echo 'make ranges       part of the suite with the lowest and newest of the ranges, and docs/ranges.md from it'
	@echo 'make families     every model family against an oracle, and docs/families.md from it   (ARGS="llama" does one)'
	@echo 'make calibration  how often the rules are wrong, for an hour at a time, and docs/calibration.md from it'
	@echo 'make hub-check    the parity trial on a model from the Hugging Face hub (needs a network)'
	@echo 'make wheel-check  build the wheel and run its demo in a clean environment'
	@echo 'make package      what the package index takes, in dist: wheel and source distribution, checked'
	@echo 'make lint | format | clean'

# -- what the targets stand on ------------------------------------------------------------------------------

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "headlab needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv. Or name another Python: PYTHON=..." >&2; exit 1; }

# A stamp is touched only when its step ended, so an interrupted install is taken up again.
$(VENV)/.stamp-torch: constraints.txt | check-python
	@echo "setting up $(VENV) with torch (once; some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) $(TORCH_FLAGS) torch
	@touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	@echo "installing headlab (once; some minutes) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[view]'
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	@echo "installing headlab with its test extra (once; some minutes) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[test]'
	@touch $(VENV)/.stamp-run $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-torch pyproject.toml constraints.txt
	@echo "installing headlab with its docs extra (once; a minute) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[docs,view]'
	@touch $(VENV)/.stamp-run $@

# -- what a user calls --------------------------------------------------------------------------------------

demo: $(VENV)/.stamp-run
	$(BIN)/headlab demo $(ARGS)

# On all cores (at most 8), a file of tests at a time; ARGS="-n 0" runs them one after another.  Types are checked meanwhile.
test: style
	@$(MAKE) --no-print-directory -j 2 types suite

suite: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

accept: lint
	HEADLAB_TYPECHECK=all $(BIN)/python -m pytest -m 'accept or not accept'
	$(MAKE) wheel-check

docs: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/site $(ARGS)
	@echo "open docs/_build/site/index.html"

hub-check: $(VENV)/.stamp-run
	$(BIN)/headlab trial parity --model EleutherAI/pythia-160m $(ARGS)

# Each peer gets an environment of its own below .venv; --here does without.
bench: $(VENV)/.stamp-run
	TORCH_FLAGS="$(TORCH_FLAGS)" $(BIN)/python -m benchmarks --docs $(ARGS)

# torch comes from where TORCH_FLAGS says; ARGS="--only pandas --end lowest" runs one.
ranges: $(VENV)/.stamp-test
	TORCH_FLAGS="$(TORCH_FLAGS)" $(BIN)/python -m benchmarks.ranges --docs $(ARGS)

# ARGS="llama gpt2" measures those alone and leaves the other rows.
families: $(VENV)/.stamp-test
	$(BIN)/python tests/engine/families.py --docs $(ARGS)

# Goes on where the last call stopped, as long as the source is the same; ARGS="--budget 10" stops sooner.
calibration: $(VENV)/.stamp-run
	$(BIN)/headlab calibrate --budget 60 --store calibration-runs $(ARGS)
	$(BIN)/python -m headlab.experiments.calibration.page calibration-runs docs "$$(git rev-parse --short HEAD)"

# The wheel alone, in an environment and a directory that know nothing of this checkout.
wheel-check: $(VENV)/.stamp-torch
	@set -eu; here=$$(pwd); room=$$(mktemp -d); trap 'rm -rf "$$room"' EXIT; unset PYTHONPATH; \
	echo "building the wheel ..."; \
	$(BIN)/python -m pip wheel -qq --no-deps -w "$$room/wheel" .; \
	echo "installing it in a clean environment ..."; \
	$(BIN)/python -m venv "$$room/venv"; \
	"$$room/venv/bin/python" $(PIP_INSTALL) $(TORCH_FLAGS) torch; \
	"$$room/venv/bin/python" $(PIP_INSTALL) "$$room"/wheel/*.whl; \
	cd "$$room"; \
	venv/bin/python -c "import headlab, sys; sys.exit(not headlab.__file__.startswith(sys.prefix))" \
	  || { echo "headlab was not imported from the wheel" >&2; exit 1; }; \
	venv/bin/headlab demo $(ARGS); \
	echo "the wheel runs outside $$here"

# In an environment of its own; the wheel is built from the source distribution, and 40 MB is the most it may take.
package: check-python
	@test -x $(VENV)/package/bin/python || $(PYTHON) -m venv $(VENV)/package
	@$(VENV)/package/bin/python -m pip install -qq build twine
	@rm -rf dist
	$(VENV)/package/bin/python -m build --outdir dist .
	$(VENV)/package/bin/python -m twine check --strict dist/*
	@ls -l dist; size=$$(cat dist/*.whl | wc -c); test $$size -le 40000000 \
	  || { echo "the wheel takes $$size bytes; 40,000,000 is the most" >&2; exit 1; }

lint: style types

style: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-test
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Leaves .venv, which is dear to rebuild: `rm -rf .venv` starts over.
clean:
	rm -rf build dist docs/_build docs/gallery.md src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
