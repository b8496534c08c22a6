# `make` alone lists the targets. Needs Python 3.11 or newer; `make setup` also needs PyPI.
VENV   ?= .venv
PYTHON ?= python3
RECIPE ?=
DATA   ?=
ARGS   ?=

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
BIN         := $(abspath $(VENV))/bin
# Its name depends on the pinned versions, so that clones can share an environment. Written last: an unfinished setup has none.
STAMP       := $(VENV)/.mtseg-$(shell cat requirements.lock requirements-detectron2.txt | cksum | cut -d' ' -f1)
PIP         := $(BIN)/python -m pip --disable-pip-version-check --no-input

# dvc.yaml says `python`
export PATH := $(BIN):$(PATH)

.PHONY: help setup repro test lint check docs ablations lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  VENV=DIR     the environment to create or to use (now $(VENV))"
	@echo "  PYTHON=EXE   the Python to create it with, 3.11 or newer (now $(PYTHON))"
	@echo "  RECIPE=NAME  for repro: apply recipes/NAME.yaml to params.yaml first; DATA=DIR: its raw data"
	@echo "  ARGS=...     for test: further arguments of pytest, such as ARGS='-m \"not slow\"'"

setup: $(STAMP) ## create the environment: pinned packages and detectron2 (8 GB; skipped if it is up to date)
	@echo "$(VENV) is ready: source $(VENV)/bin/activate"

repro: $(STAMP) ## run the pipeline: every stage whose code, data or params changed
	@if [ -n "$(RECIPE)" ]; then python -m stages.recipe $(RECIPE) $(if $(DATA),"$(DATA)"); \
	elif [ -n "$(DATA)" ]; then echo "error: DATA needs RECIPE; without a recipe, set data.raw in params.yaml" >&2; exit 1; fi
	@dvc repro

test: $(STAMP) ## run every test; the tests in a browser need Chromium
	@left=(); command -v chromium chromium-browser google-chrome > /dev/null || { left=(--ignore tests/report/test_browser.py); \
	    echo "note: no Chromium on PATH, the tests of the report in a browser are skipped: apt-get install chromium" >&2; }; \
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations=10 "$${left[@]}" $(ARGS)

lint: $(STAMP) ## check code and formatting
	@ruff check .
	@ruff format --check .

check: $(STAMP) ## look for risky calls in the code, known vulnerabilities and unknown licences of the dependencies
	@bandit --configfile pyproject.toml --quiet --recursive -ll mtseg stages
	@python .ci/dependencies.py

docs: $(STAMP) ## build the documentation site in site/; a broken link is an error
	@sphinx-build --quiet --fail-on-warning --keep-going docs site
	@echo "open site/index.html"

ablations: $(STAMP) ## make the missing runs of the studies on the embedded data, and all tables; Ctrl-C is safe
	@code=0; python -m ablations.run || code=$$?; python -m ablations.tables; exit $$code
	@python -m ablations.saturation
	@python -m ablations.cost

lock: $(STAMP) ## update requirements.lock from pyproject.toml (delete it first to raise every version)
	@command -v uv > /dev/null || $(PIP) install --quiet uv
	@uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml --output-file requirements.lock

$(STAMP):
	@python=$(PYTHON); [ ! -x $(BIN)/python ] || python=$(BIN)/python; \
	command -v $$python > /dev/null || { echo "error: $$python not found; name another: make setup PYTHON=python3.12" >&2; exit 1; }; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $$($$python --version) is too old, mtseg needs 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || { echo "setup: creating $(VENV) with $$($$python --version)"; $$python -m venv $(VENV); }
	@$(PIP) --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@echo "setup: installing requirements.lock, some minutes the first time"
	@$(PIP) install -qq --no-deps --requirement requirements.lock
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("detectron2"))' || { \
	    echo "setup: detectron2"; site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	    new=$$site/.detectron2; rm -rf $$new; \
	    $(PIP) install -qq --no-deps --require-hashes --requirement requirements-detectron2.txt \
	        --python-version 3.10 --implementation cp --only-binary=:all: --target $$new; \
	    mv $$new/detectron2 $$new/*.dist-info $$site; rm -rf $$new; } # not the stray top-level package `tools`
	@$(BIN)/python -c 'import detectron2, torchvision'
	@touch $@
