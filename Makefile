# Everything runs from a clean clone. It needs Python 3.11 to 3.13, make, a package index, and 4 GB of
# disk (9 GB with CUDA).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# An interpreter of 3.11 to 3.13; by default the first that is found.
PYTHON ?=
# Wheels of PyTorch, cpu or cuda; by default cuda where an NVIDIA GPU is found, otherwise cpu.
TORCH ?=
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.unspoken-$(shell cat pyproject.toml stack/pyproject.toml stack/setup.py requirements*.txt requirements.lock scripts/setup 2>/dev/null | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help ALWAYS setup check format openapi reference pictures docs test security-test audit demo up chaos chaos-long compose-test bench gpu-check dist clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with everything that demo, test and check need

# TORCH=... asks for one kind of PyTorch, so it runs again.
$(STAMP): $(if $(TORCH),ALWAYS)
	PYTHON='$(PYTHON)' TORCH='$(TORCH)' scripts/setup $(VENV)
	@touch $@

check: setup ## check format, lint, types and import contracts, as CI does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_words.py

format: setup ## format the code and apply lint fixes with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: setup ## regenerate docs/openapi from the services
	$(BIN)/python -m tests.openapi

reference: setup ## regenerate the pages of the command line and the settings
	$(BIN)/python -m scripts.reference_pages

pictures: setup ## draw the pictures of README, docs and examples; chromium makes the screenshot
	$(BIN)/python -m scripts.make_pictures

# The site's tools have their own environment, because nothing else needs them.
DOCS := $(VENV)-docs
$(DOCS)/.installed: docs/requirements.txt
	test -x $(DOCS)/bin/python || $(or $(PYTHON),python3) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --disable-pip-version-check --quiet -r docs/requirements.txt
	touch $@

docs: $(DOCS)/.installed ## build the documentation into build/site, offline, and check its links
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	! grep -rlE '<(script|link|img)[^>]*(src|href)="?https?:' build/site --include='*.html' # it must work offline
	@echo "open build/site/index.html"

test: setup ## run the whole test suite, on the CPU, offline
	$(BIN)/python -m pytest

security-test: setup ## run all known attacks in full: picture bombs, SSRF, archives, schemathesis
	$(BIN)/python -m tests.security

# The audit tools have their own environment, so that they do not change the audited one.
AUDIT := $(VENV)-audit
audit: setup ## check requirements.lock for known vulnerabilities, and write a CycloneDX bill of materials
	test -x $(AUDIT)/bin/pip-audit || $(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --disable-pip-version-check --quiet pip-audit cyclonedx-bom
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file sbom.cdx.json
	$(AUDIT)/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

# twine has its own environment, because nothing else needs it.
RELEASE := $(VENV)-release
dist: setup ## build the wheels and source archives of a release into ./dist, and check them
	$(BIN)/python scripts/build_distributions.py dist
	test -x $(RELEASE)/bin/python || $(BIN)/python -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --disable-pip-version-check --quiet twine
	$(RELEASE)/bin/python -m twine check --strict dist/*
	$(BIN)/python -m pytest tests/packaging

demo: setup ## label the demo pictures on this machine; results in ./demo-out
	$(BIN)/unspoken demo --out demo-out --exit
	@printf '%s\n' '' 'How to go on:' \
	  '  source $(BIN)/activate             # puts `unspoken` on your PATH' \
	  '  open demo-out/report/index.html        # what was found, in a browser' \
	  '  unspoken label examples --name labels  # a folder of pictures; README.md goes on from here'

up: setup ## run all services and a worker on this machine, until Ctrl-C
	$(BIN)/unspoken up

# The seed is random unless it is set: make chaos SEED=7
CHAOS = $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

chaos: setup ## inject faults into a run of 500 chunks, and check the result
	$(CHAOS)

chaos-long: setup ## the same with 2 000 chunks
	$(CHAOS) --chunks 2000 --rounds 6 --longest-s 10

compose-test: ## build the containers, label a batch over HTTP while containers are killed, tear down
	bash tests/compose/run

bench: setup ## run every benchmark; prints one JSON line each
	for name in $$(cd bench && ls -d [a-z]*.py */__main__.py | sed 's/\.py$$//; s#/__main__##'); do $(BIN)/python -m bench.$$name; done

gpu-check: setup ## compare every network on CUDA with the CPU, in results and time; prints one JSON line
	$(BIN)/python -m bench.gpu_check

clean: ## remove the outputs of demo, test, docs and dist; keep the venv
	rm -rf build demo-out dist .pytest_cache .mypy_cache .ruff_cache
