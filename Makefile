# Everything runs in .venv, which is made on first use. Another interpreter:
#   make test PYTHON=python3.12
# Further arguments:
#   make test ARGS="tests/cost/test_cost.py -x"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# One process per core; each test file stays in one, for what it sets up.
PARALLEL ?= -n auto --dist loadfile

export TF_CPP_MIN_LOG_LEVEL ?= 3
# Tests start many processes, which would compile TensorFlow's files one by one.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-backends test-tensorflow test-jax \
	test-jax-short test-torch test-oldest test-oldest-short lint docs docs-serve \
	format clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.installed-demo  ## Install, then train, prune and export a small model
	@$(BIN)/kprune demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests that take seconds
	@$(BIN)/pytest $(PARALLEL) $(ARGS)

test-slow: $(VENV)/.installed-dev  ## Run the tests that take minutes
	@$(BIN)/pytest $(PARALLEL) -m slow $(ARGS)

# The core runs on any backend of Keras. JAX and PyTorch get an environment
# without TensorFlow. Left out: what takes JAX minutes to compile.
CORE ?= tests/graph tests/masking tests/cost tests/session tests/criteria tests/allocation \
	tests/rebuild tests/callbacks tests/duplication tests/recovery \
	tests/regularizers tests/recipes tests/binary tests/latency tests/test_factors.py tests/test_prune.py \
	tests/test_registry.py tests/test_schedules.py tests/test_arguments.py \
	tests/test_parts.py tests/test_part_protocol.py tests/test_import.py \
	--ignore tests/graph/test_applications.py --ignore tests/graph/test_fuzz.py
test-backends: test-tensorflow test-jax test-torch  ## Run the core tests on every backend of Keras

test-tensorflow: $(VENV)/.installed-dev
	@KERAS_BACKEND=tensorflow $(BIN)/pytest $(PARALLEL) $(CORE) $(ARGS)

# JAX compiles one operation at a time; what it compiled is kept.
JAX := test-jax test-jax-short
$(JAX): export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.venv-jax/cache
$(JAX): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
$(JAX): export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1
test-jax test-torch: test-%: .venv-%/.installed
	@KERAS_BACKEND=$* .venv-$*/bin/pytest $(PARALLEL) $(CORE) $(ARGS)

# Of every part of the core, what JAX does not compile for long.
CORE_SHORT ?= $(addprefix tests/graph/test_,labels.py slots.py trace.py \
	unknown.py composite.py) "tests/graph/test_zoo.py::test_core_model[sequential]" \
	"tests/graph/test_zoo.py::test_core_model[squeeze_excite]" \
	tests/masking tests/cost tests/session/test_session.py tests/criteria/test_data_free.py \
	tests/criteria/test_taylor.py tests/callbacks/test_prune_callback.py \
	tests/callbacks/test_resume.py tests/rebuild/test_rebuild.py \
	tests/distribution/test_sharded.py \
	tests/recovery/test_recover.py tests/regularizers/test_orthonormal.py \
	tests/recipes/test_kdfs.py tests/recipes/test_snpfi.py tests/test_prune.py tests/test_registry.py \
	tests/test_schedules.py \
	$(addprefix tests/latency/test_,curve.py table.py examples.py) tests/allocation/test_search.py

test-jax-short: .venv-jax/.installed  ## Run the part of the core on JAX that takes minutes
	@KERAS_BACKEND=jax .venv-jax/bin/pytest $(PARALLEL) $(CORE_SHORT) $(ARGS)

# The oldest versions that setup.cfg allows, beside the newest in $(VENV). Extras
# are not among them.
OLDEST_SHORT ?= $(addprefix tests/graph/test_,labels.py slots.py trace.py) \
	tests/masking/test_wrap.py tests/rebuild/test_rebuild.py tests/test_prune.py \
	tests/test_sensitivity.py tests/regularizers/test_attach.py tests/loading \
	tests/export/test_export_formats.py

test-oldest: .venv-oldest/.installed  ## Run the core tests on the oldest Keras, TensorFlow, NumPy and SciPy
	@.venv-oldest/bin/pytest $(PARALLEL) $(CORE) $(ARGS)

test-oldest-short: .venv-oldest/.installed  ## Run the part of them that takes a minute
	@.venv-oldest/bin/pytest $(PARALLEL) -k "not onnx and not plot" $(OLDEST_SHORT) $(ARGS)

NEEDS := core
.venv-jax/.installed: BACKEND := jax
.venv-torch/.installed: BACKEND := torch==2.13.0
.venv-oldest/.installed: NEEDS := oldest
.venv-%/.installed: setup.cfg setup.py pyproject.toml kprune/__about__.py .ci/needs.py
	@echo "Installing kprune and what it needs into .venv-$*"
	@$(PYTHON) -m venv .venv-$*
	@$(PYTHON) .ci/needs.py $(NEEDS) > .venv-$*/needs.txt
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-compile -r .venv-$*/needs.txt $(BACKEND)
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps -e .
	@touch $@

# mypy and import-linter look at a copy laid out as the installed package, for
# only there is the folder callbacks/ the package kprune.callbacks.
lint: $(VENV)/.installed-dev  ## Check style, format, types and layers
	@$(BIN)/python .ci/lists.py --check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint
	@cp -r kprune build/lint/kprune && cp -r callbacks build/lint/kprune/callbacks
	@rm build/lint/kprune/callbacks.pyi
	@cd build/lint && $(abspath $(BIN))/mypy --config-file $(CURDIR)/setup.cfg \
		--cache-dir $(CURDIR)/.mypy_cache -p kprune
	@cd build/lint && $(abspath $(BIN))/lint-imports --config $(CURDIR)/setup.cfg \
		--no-cache --no-logo

# MkDocs 2 will take no plugins; the theme warns of it in each build.
docs docs-serve: export NO_MKDOCS_2_WARNING ?= 1

docs: $(VENV)/.installed-docs  ## Build the documentation site into build/site
	@$(BIN)/mkdocs build --strict
	@echo "Open build/site/index.html"

docs-serve: $(VENV)/.installed-docs  ## Show the documentation site while it is edited
	@$(BIN)/mkdocs serve --strict $(ARGS)

format: $(VENV)/.installed-dev  ## Fix style and format in place
	@$(BIN)/python .ci/lists.py
	@$(BIN)/python .ci/placing.py
	@$(BIN)/python .ci/drawing.py
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove .venv and everything that was built
	@rm -rf $(VENV) .venv-jax .venv-torch .venv-oldest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: INSTALL := .[onnx,data]
$(VENV)/.installed-dev: INSTALL := .[dev]
$(VENV)/.installed-docs: INSTALL := .[docs]
$(VENV)/.installed-%: setup.cfg setup.py pyproject.toml kprune/__about__.py | $(BIN)/python
	@echo "Installing kprune and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-compile -e "$(INSTALL)"
	@touch $@
