# make demo   set up, then train an agent on household tasks (about nine minutes on two cores)
# make extras the engines of all environments: TextWorld, ScienceWorld, the official ALFWorld engine (needs cmake and g++)
# make inspect the readers of inspect_ai, for the tests that our logs open in it
# make vllm   vLLM for CPUs, for the tests against a real server and a real engine
# make test   set up, then run the whole test suite
#             PYTEST_OPTIONS='-n 2 --dist loadfile' shares it between two workers
# make docs   set up, then build the site of the documents into site/
# make check  set up, then lint, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The set-up is done again only when what it depends on has changed.
STAMP := $(VENV)/.installed

.PHONY: setup extras inspect vllm demo test docs lint check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("agent_gym needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
# torch comes first and by its exact version: any other order may bring a build of several gigabytes.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

extras: $(VENV)/.extras

$(VENV)/.extras: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,environments]'
	touch $(VENV)/.extras

inspect: build/inspect/.installed

build/inspect/.installed: tests/inspect-requirements.txt $(STAMP)
	rm -rf build/inspect
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
		--target build/inspect/site-packages --requirement tests/inspect-requirements.txt
	touch $@

vllm: build/vllm/.installed

build/vllm/.installed: tests/vllm-requirements.txt
	rm -rf build/vllm
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
		--requirement tests/vllm-requirements.txt || \
		{ echo "vLLM cannot be installed here: its tests are skipped, unless REQUIRE_VLLM=1 is set"; exit 1; }
# What its processes import is compiled once, and no more than that: each of them takes half a minute otherwise.
	PYTHONDONTWRITEBYTECODE= build/vllm/bin/python -c 'import vllm.entrypoints.launchers.api_server.entry, \
		vllm.v1.engine.core, vllm.v1.worker.cpu_worker, vllm.model_executor.models.llama' >/dev/null
	touch $@

demo: setup
	$(BIN)/agent-gym train --config examples/household.yaml --name demo --resume

test: setup
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf site $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
