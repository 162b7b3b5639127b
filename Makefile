# Two commands are the whole set-up: `make demo` and `make test`.
# Each makes .venv and installs locked requirements the first time, and only then.
PYTHON ?= python3
# Optional: an index that serves another build of torch (CPU-only, another CUDA).
TORCH_INDEX ?=
export TORCH_INDEX
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all docs clean
demo: .venv/base
	$(BIN)/fsrobust demo

test: .venv/dev
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

test-all: .venv/dev
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check --all

docs: .venv/dev
	$(BIN)/sphinx-build -q -W docs docs/_build
	@echo "docs/_build/index.html"

.venv/base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Expected Python 3.11 or newer; set PYTHON=")'
	@echo "Setting up .venv (once; torch is a download of 200 MB, with CUDA of gigabytes) …"
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	@touch $@

.venv/dev: .venv/base
	$(PIP) -e ".[test,dev,cluster,docs]"
	@touch $@

clean:
	rm -rf .venv .compat build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
