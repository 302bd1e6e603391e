# What each target does stands behind its name; `make help` prints it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BIN := .venv/bin
ENV := .venv/.complete
# One thread per process: the models of the tests are so small that more threads only wait for each other.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: help env demo local test test-all checks lint format crds docs bench bench-scale bench-chaos bench-failover clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(ENV) ## make .venv with everything pinned in constraints.txt

# torch goes first and alone, so that it is taken from wherever this machine's pip is told to take it from.
$(ENV): pyproject.toml constraints.txt
	@echo "Making .venv (once; some minutes, most of it downloads) …"
	@python3 -m venv .venv
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(ENV) ## make a tiny model and data, fine-tune, and show what was learned
	@$(BIN)/finetune demo

local: $(ENV) ## keep a local cluster in the foreground, for kubectl
	@$(BIN)/finetune local

test: lint ## lint and the default suite
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: lint ## lint and every test, the slow ones too
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

checks: $(ENV) ## chart, samples and workflows against Kubernetes' schemas, promtool and actionlint
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[checks]'
	$(BIN)/python -m pytest helm/checks

lint: $(ENV) ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ENV) ## put the code into ruff's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: $(ENV) ## generate crds/*.yaml from the types
	$(BIN)/python crds/generate.py

docs: $(ENV) ## build the documentation's site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(ENV) ## measure the operator's own overhead
	$(BIN)/python bench/overhead.py

bench-scale: $(ENV) ## measure the operator with 1,000 live jobs
	$(BIN)/python bench/scale.py --jobs 1000 --rate 16

bench-chaos: $(ENV) ## kill its parts 200 times, and look whether every promise holds
	$(BIN)/python bench/chaos.py --kills 200 --seed 1

bench-failover: $(ENV) ## measure how long nobody leads when a leader is killed or told to end
	$(BIN)/python bench/failover.py

clean: ## remove what tools left, but not .venv
	rm -rf .local .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache finetune-output
