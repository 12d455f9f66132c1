# Each target sets up everything it needs: only python 3.11+, make and a C compiler must be there.
#   make demo    the main job: SFT against SCALe-SFT on real icon pictures, table, plots and report under runs/demo
#   make test    all tests but the long ones (under 10 minutes on 2 cores)
#   make test-lmms-eval  exported tasks through lmms-eval itself (installs it in .venv-lmms-eval)
#   make test-browser   the HTML report in headless Chromium (part of `make test` where one is installed)
#   make check   formatting, lint, types, contracts (what must hold before a commit)
# TORCH_INDEX=<url> takes torch and torchvision from another wheel index (for example a CPU-only one).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two processes with spinning OpenMP threads slow each other several times; passive waiting costs nothing alone.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: setup demo test test-browser test-long test-lmms-eval check format clean
setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "balanced-thinking needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing dependencies into $(VENV) (once, a minute or more) ..."
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/python -m pip install -q --disable-pip-version-check --index-url "$(TORCH_INDEX)" torch torchvision; fi
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo,dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/balanced demo

test: $(READY)
	$(BIN)/python -m pytest

# Debian: apt-get install chromium. A machine without a browser fails here, and only here.
test-browser: $(READY)
	@command -v chromium chromium-browser google-chrome chrome > /dev/null || { echo "make test-browser needs Chromium on the PATH"; exit 2; }
	$(BIN)/python -m pytest -m browser

test-long: $(READY)
	$(BIN)/python -m pytest -m long

# lmms-eval pins other versions than we do, so it gets an environment of its own (some minutes, 6 GB).
# filelock 4 has no `_api`, which lmms-eval 0.7.3 imports.
LMMS := .venv-lmms-eval
$(LMMS)/.ready:
	test -x $(LMMS)/bin/python || $(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install -q --disable-pip-version-check 'lmms-eval==0.7.3' decord 'filelock<4'
	@touch $@

test-lmms-eval: $(READY) $(LMMS)/.ready
	LMMS_EVAL_PYTHON=$(CURDIR)/$(LMMS)/bin/python $(BIN)/python -m pytest -m lmms_eval

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/contract

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(LMMS) build dist runs .pytest_cache .ruff_cache .mypy_cache
