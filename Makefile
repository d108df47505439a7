PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
CONTAINER ?= docker
VERSION = $(shell sed -n 's/^version = //p' setup.cfg)
CPU = medmark/python-cpu:$(VERSION)
CUDA = medmark/python-cuda:$(VERSION)
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD)

.DEFAULT_GOAL := help
.PHONY: help install run test lint format docs images images-lock images-test base-image clean

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
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

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

$(VENV)/.images-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[images]'
	touch $@

images: $(VENV)/.images-installed ## build the images that the steps run in, with docker or CONTAINER=podman
	rm -rf build/images
	mkdir -p build/images
	$(BIN)/hadolint images/*/Containerfile
	$(BIN)/python -m build --wheel --outdir build/images .
	cp images/locks/*.lock build/images
	$(CONTAINER) build $(LABELS) $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) \
		--tag $(CPU) --file images/cpu/Containerfile build/images
	$(CONTAINER) build --build-arg CPU_IMAGE=$(CPU) --tag $(CUDA) --file images/cuda/Containerfile build/images
	$(CONTAINER) run --rm --network none $(CPU) pip list --format freeze > build/images/cpu.versions.txt
	$(CONTAINER) run --rm --network none $(CUDA) pip list --format freeze > build/images/cuda.versions.txt
	cat images/locks/torch.lock images/locks/requirements.lock images/locks/kfp.lock \
		| $(BIN)/cyclonedx-py requirements --output-reproducible --output-file build/images/sbom.json -

images-lock: $(VENV)/.images-installed ## pin what goes into the images to the versions that are installed
	PATH=$(BIN):$$PATH $(BIN)/python images/locks/lock.py

images-test: install ## run all pipelines in containers of the image; needs docker
	MEDMARK_TEST_IMAGE=$(CPU) $(BIN)/python -m pytest tests/e2e/test_images.py tests/e2e/test_cluster.py

# pip in it trusts what this machine trusts
base-image: ## make a stand-in for the images' base where no registry can be reached; needs root, docker and debootstrap
	rm -rf build/base
	mkdir -p build
	debootstrap --variant=minbase --include=ca-certificates bookworm build/base
	cp /etc/ssl/certs/ca-certificates.crt build/base/etc/ssl/certs/ca-certificates.crt
	tar -C build/base -c . | docker import --change "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt" - medmark/base:bookworm
	rm -rf build/base

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
