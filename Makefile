# Everything runs from .venv, which the first target that needs it makes: nothing is installed outside this directory.
# Needs make, git, python3 (3.11 or later) and python3-venv; no target needs root.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# A stamp file says which extras the environment has; it is out of date as soon as pyproject.toml is newer.
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all compiled test-compiled lint bench clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

# An environment that works is kept, whoever made it; a broken one, or one of too old a Python, is made anew.
define ensure_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "usernet needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
endef

$(RUN): pyproject.toml
	$(ensure_venv)
	$(PIP) install --quiet --editable '.[all]'
	@touch $@

$(DEV): pyproject.toml
	$(ensure_venv)
	$(PIP) install --quiet --editable '.[all,test,lint]'
	@touch $(RUN) $@

venv: $(DEV) ## make .venv with everything a developer needs

demo: $(RUN) ## two hosts, a lossy cable, a file fetched over HTTP and verified
	$(BIN)/usernet demo

test: $(DEV) ## run the tests, but for the long ones
	$(BIN)/python -m pytest

test-all: $(DEV) ## run all tests, the long ones too
	$(BIN)/python -m pytest -m '' --hypothesis-profile=long

# The checkout itself always runs interpreted, as it is edited; what is compiled of it is a copy that is used when asked.
COMPILED := build/compiled/lib

compiled: $(DEV) ## compile the stack into build/compiled (a C compiler and Python's headers are needed)
	rm -rf $(COMPILED)
	USERNET_PURE=0 $(BIN)/python setup.py -q build --build-base build/compiled --build-lib $(COMPILED)

test-compiled: compiled ## run the tests on the compiled stack; TESTS= names some of them
	PYTHONPATH=$(COMPILED) $(BIN)/python -m pytest $(TESTS)

lint: $(DEV) ## style, types, and the order of the layers
	$(BIN)/ruff check
	$(BIN)/mypy src/usernet tests $(wildcard bench examples)
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(DEV) ## run every benchmark (root, three quarters of an hour); each is also a program of its own in bench/
	$(BIN)/python bench/all.py $(BENCH)

clean: ## remove caches and build products
	rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name $(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)
