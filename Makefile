# Every target sets up what it needs by itself; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CODE := flows tasks blocks catalog likeness lab bench tests
PINS := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
# Right after the pinned Prefect was built: what is newer it cannot have been tested with.
PREFECT_DAY := 2026-10-07T00:00:00Z
OURS := asyncssh blake3 certifi cryptography duckdb mnemonic msgspec numpy pynacl smbprotocol \
	xenapi xxhash zstandard
OF_THAT_DAY := --exclude-newer $(PREFECT_DAY) $(OURS:%=--exclude-newer-package %=false)
PYTEST := $(BIN)/python -m pytest
export PYTHON

.PHONY: help setup demo test cover check fix lab bench bench-images bench-peers agent torture pins upgrade clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt pyproject.toml requirements/setup.sh
	@requirements/setup.sh

setup: $(READY) ## make .venv from the pinned requirements

demo: $(READY) ## back up two VMs of a simulated pool, change, validate, restore; ARGS="--source enhanced"
	@tests/packages.sh $(if $(findstring enhanced,$(ARGS)),share,demo)
	@$(BIN)/python -m lab.demo $(ARGS)

test: $(READY) ## run the tests; ARGS="-k words" chooses some
	@tests/packages.sh test
	@$(PYTEST) -n $$(( ($$(nproc) * 3 + 1) / 2 )) --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)

cover: $(READY) ## run the tests and measure what they reach
	@tests/packages.sh test
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: $(READY) ## style, types and the rules of who imports whom
	@# The types are looked at beside the rest: each needs one core only.
	@$(BIN)/mypy & types=$$!; right=0; \
	{ $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo; } || right=$$?; \
	wait $$types && exit $$right

fix: $(READY) ## format, and repair what can be repaired without thinking
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lab: $(READY) ## serve a simulated pool; ARGS="--vm web=disk.raw"
	@tests/packages.sh demo
	@$(BIN)/python -m lab serve $(ARGS)

bench: $(READY) ## measure backup, validate and restore; ARGS chooses
	@tests/packages.sh demo
	@$(BIN)/python -m bench $(ARGS)

bench-images: $(READY) ## make the disks to measure on, in bench/out/images; ARGS="--mib 1024 --own"
	@tests/packages.sh peers
	@$(BIN)/python -m bench.images $(ARGS)

bench-peers: $(READY) ## Likeness, borg and restic over those disks, in turn
	@tests/packages.sh peers
	@$(BIN)/python -m bench.peers $(ARGS)

agent: $(READY) ## make dist/likeness-agent, the agent as one executable
	@packaging/make_agent.sh

torture: $(READY) ## long random runs, hours if you let them; ARGS="-k words" chooses some
	@tests/packages.sh torture
	@$(BIN)/python -m pip install -qq --no-input --require-hashes -r requirements/torture.txt \
		|| echo "No fuzzer for this Python: the fuzz targets are left out." >&2
	@# On a disk: what long runs write may be more than fits into memory.
	@TMPDIR=$${TMPDIR:-/tmp} HYPOTHESIS_PROFILE=torture $(PYTEST) -m torture --timeout=0 $(ARGS)

pins: $(READY) ## compile requirements/*.txt again after a change of pyproject.toml
	@$(PINS) $(UPGRADE) $(OF_THAT_DAY) pyproject.toml -o requirements/run.txt
	@$(PINS) $(UPGRADE) pyproject.toml --extra files --extra mount --group dev \
		-c requirements/run.txt -o requirements/dev.txt
	@$(PINS) $(UPGRADE) pyproject.toml --extra files -c requirements/dev.txt \
		-o requirements/files.txt
	@$(PINS) $(UPGRADE) pyproject.toml --extra mount -c requirements/dev.txt \
		-o requirements/mount.txt
	@$(PINS) $(UPGRADE) --group agent -c requirements/run.txt -o requirements/agent.txt
	@$(PINS) $(UPGRADE) --group agent --group executable -c requirements/agent.txt \
		-o requirements/executable.txt
	@$(PINS) $(UPGRADE) --group torture -c requirements/dev.txt -o requirements/torture.txt
	@$(MAKE) setup

upgrade: UPGRADE := --upgrade
upgrade: pins ## the same, with the newest versions that the bounds allow

clean: ## remove what the tools, the demo and the benchmarks left; .venv too
	@rm -rf $(VENV) .demo .lab bench/out build dist htmlcov .coverage .coverage.* .hypothesis \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
