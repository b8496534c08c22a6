# `make` alone lists what there is to do. Needs Python 3.11 or newer and, for `make setup`, PyPI; nothing else.
VENV   ?= .venv
PYTHON ?= python3
RECIPE ?=
DATA   ?=
ARGS   ?=

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
BIN         := $(abspath $(VENV))/bin
# Named by what it holds, so that clones may share an environment; written last, so that only a finished set-up has one.
STAMP       := $(VENV)/.mtseg-$(shell cat requirements.lock requirements-detectron2.txt | cksum | cut -d' ' -f1)
PIP         := $(BIN)/python -m pip --disable-pip-version-check --no-input

# dvc.yaml says `python`
export PATH := $(BIN):$(PATH)

.PHONY: help setup repro test lint ablations lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  VENV=DIR     the environment to make or to use (now $(VENV))"
	@echo "  PYTHON=EXE   the Python to make it with, 3.11 or newer (now $(PYTHON))"
	@echo "  RECIPE=NAME  with repro: lay recipes/NAME.yaml over params.yaml first; DATA=DIR: where its raw data lie"
	@echo "  ARGS=...     with test: further arguments of pytest, such as ARGS='-m \"not slow\"'"

setup: $(STAMP) ## make the environment: pinned packages and detectron2 (6 GB; does nothing the second time)
	@echo "$(VENV) is ready: source $(VENV)/bin/activate"

repro: $(STAMP) ## run the pipeline: every stage whose code, data or params changed
	@if [ -n "$(RECIPE)" ]; then python -m stages.recipe recipes/$(RECIPE).yaml $(if $(DATA),"$(DATA)"); \
	elif [ -n "$(DATA)" ]; then echo "error: DATA goes with RECIPE; without one, set data.raw in params.yaml" >&2; exit 1; fi
	@dvc repro

test: $(STAMP) ## run every test; those in a browser need Chromium
	@left=(); command -v chromium chromium-browser google-chrome > /dev/null || { left=(--ignore tests/report/test_browser.py); \
	    echo "note: no Chromium on PATH, the report is not tried in a browser: apt-get install chromium" >&2; }; \
	pytest --durations=10 "$${left[@]}" $(ARGS)

lint: $(STAMP) ## check code and formatting
	@ruff check .
	@ruff format --check .

ablations: $(STAMP) ## run the studies on the embedded data, some two hours; what is done is skipped, Ctrl-C at any time
	@code=0; python -m ablations.run || code=$$?; python -m ablations.tables; exit $$code
	@python -m ablations.saturation
	@python -m ablations.cost

lock: $(STAMP) ## write requirements.lock anew from pyproject.toml (delete it first to move every version up)
	@command -v uv > /dev/null || $(PIP) install --quiet uv
	@uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml --output-file requirements.lock

$(STAMP):
	@python=$(PYTHON); [ ! -x $(BIN)/python ] || python=$(BIN)/python; \
	command -v $$python > /dev/null || { echo "error: no $$python here; name one: make setup PYTHON=python3.12" >&2; exit 1; }; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $$($$python --version) is too old, mtseg needs 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || { echo "setup: new environment $(VENV), $$($$python --version)"; $$python -m venv $(VENV); }
	@$(PIP) --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@echo "setup: packages of requirements.lock, some minutes the first time"
	@$(PIP) install -qq --no-deps --requirement requirements.lock
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("detectron2"))' || { \
	    echo "setup: detectron2"; site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	    new=$$site/.detectron2; rm -rf $$new; \
	    $(PIP) install -qq --no-deps --require-hashes --requirement requirements-detectron2.txt \
	        --python-version 3.10 --implementation cp --only-binary=:all: --target $$new; \
	    mv $$new/detectron2 $$new/*.dist-info $$site; rm -rf $$new; } # not the stray top-level package `tools`
	@$(BIN)/python -c 'import detectron2, torchvision'
	@touch $@
