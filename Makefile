# Everything runs in .venv, which is made on first use. Another interpreter:
#   make test PYTHON=python3.12
# Further arguments:
#   make test ARGS="tests/test_cost.py -x"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.installed-demo  ## Install, then train, prune and export a small model
	@$(BIN)/kprune demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests that take seconds
	@$(BIN)/pytest $(ARGS)

test-slow: $(VENV)/.installed-dev  ## Run the tests that take minutes
	@$(BIN)/pytest -m slow $(ARGS)

# mypy and import-linter look at a copy laid out as the installed package, for
# only there is the folder callbacks/ the package kprune.callbacks.
lint: $(VENV)/.installed-dev  ## Check style, format, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint
	@cp -r kprune build/lint/kprune && cp -r callbacks build/lint/kprune/callbacks
	@cd build/lint && $(abspath $(BIN))/mypy --config-file $(CURDIR)/setup.cfg \
		--cache-dir $(CURDIR)/.mypy_cache -p kprune
	@cd build/lint && $(abspath $(BIN))/lint-imports --config $(CURDIR)/setup.cfg \
		--no-cache --no-logo

format: $(VENV)/.installed-dev  ## Fix style and format in place
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove .venv and everything that was built
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: INSTALL := .[onnx,data]
$(VENV)/.installed-dev: INSTALL := .[dev]
$(VENV)/.installed-%: setup.cfg setup.py pyproject.toml kprune/__about__.py | $(BIN)/python
	@echo "Installing kprune and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e "$(INSTALL)"
	@touch $@
