PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install run test lint format docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

install: $(VENV)/.installed ## make a virtual environment in .venv and install medmark

run: install ## mark a release of chest phantoms into out/ and print the verdict
	@# an unfinished run has no verdict yet and goes on where it stopped
	if [ -e out/verdict.json ]; then rm -rf out; fi
	$(BIN)/medmark run mark-release --profile smoke --seed 0 --out out

# a real model server for the tests; it needs an older FastAPI than MLflow's, so it gets an environment of its own
$(VENV)/mlserver/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)/mlserver
	$(VENV)/mlserver/bin/python -m pip install --quiet 'mlserver >=1.7,<2' 'onnxruntime >=1.20'
	touch $@

test: install $(VENV)/mlserver/.installed ## run all tests
	$(BIN)/python -m pytest

# medmark lives in two top-level folders: to mypy these links are the package
build/types/medmark:
	mkdir -p $@
	ln -s ../../../components ../../../pipelines $@

lint: install build/types/medmark ## check style, types, and that rooms import only rooms below them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --cache-dir build/import-linter
	$(BIN)/mypy

format: install ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# the guides, READMEs and results are in several folders: to MkDocs these links are one
build/docs-source:
	mkdir -p $@
	for name in README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md LICENSE docs components benchmarks manifests; do \
		ln -s ../../$$name $@/$$name; done

docs: $(VENV)/.docs-installed build/docs-source ## build the documentation into build/docs; a dead link fails
	$(BIN)/mkdocs build --strict

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
