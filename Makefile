# Everything runs from a clean clone with Python 3.11 to 3.13 and nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU-only or CUDA index for torch, e.g. TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
STAMP := $(VENV)/.unspoken-$(shell cat pyproject.toml requirements*.txt requirements.lock 2>/dev/null | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup check format openapi test security-test audit demo up chaos chaos-long compose-test bench gpu-check clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything that demo, test and check need

$(STAMP):
	@echo "setting up $(VENV) (some minutes, once)"
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c requirements.lock setuptools wheel
	$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.14.1 torchvision==0.29.1
	$(PIP) -c requirements.lock -e '.[dev]'
	$(PIP) --no-deps -r requirements-no-deps.txt
	$(PIP) --no-deps --no-build-isolation -r requirements-groundingdino.txt
	touch $@

check: setup ## format, lint, types and import contracts, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff write
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: setup ## write docs/openapi anew from the services
	$(BIN)/python -m tests.openapi

test: setup ## the whole test suite, on the CPU, offline
	$(BIN)/python -m pytest

security-test: setup ## every attack that we know of, at length: bombs, SSRF, archives, schemathesis
	$(BIN)/python -m tests.security

# Tools of its own, beside the environment that they look at.
AUDIT := $(VENV)-audit
audit: setup ## known holes in what requirements.lock names, and a CycloneDX bill of materials
	test -x $(AUDIT)/bin/pip-audit || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --disable-pip-version-check --quiet pip-audit cyclonedx-bom
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file sbom.cdx.json
	$(AUDIT)/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

demo: setup ## captions in, labelled dataset out, on one machine: pictures in ./demo-out
	$(BIN)/unspoken demo --out demo-out --exit

up: setup ## all services and a worker on this machine, until Ctrl-C
	$(BIN)/unspoken up

# A seed of one's own: make chaos SEED=7; another one is drawn each time.
CHAOS = $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

chaos: setup ## kill and harm everything during a run of 500 chunks, and judge what is left
	$(CHAOS)

chaos-long: setup ## the same with 2 000 chunks
	$(CHAOS) --chunks 2000 --rounds 6 --longest-s 10

compose-test: ## build the containers, label a batch over HTTP while parts are killed, tear down
	bash tests/compose/run

# segmenter_arms trains what segmenter_quality can judge; gpu_sections is part of gpu_check.
bench: setup ## every benchmark, one JSON line each
	for name in $$(cd bench && ls *.py | grep -v -e __init__ -e segmenter_arms -e gpu_sections | sed 's/\.py$$//'); do $(BIN)/python -m bench.$$name; done

gpu-check: setup ## every network on CUDA: the CPU's answers, and the time they take; one JSON line
	$(BIN)/python -m bench.gpu_check

clean: ## remove what demo and test leave behind; the venv stays
	rm -rf demo-out .pytest_cache .mypy_cache .ruff_cache
