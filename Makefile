# Run `make` to see what there is. Every target sets up what it needs in .venv by itself.

PYTHON ?= python3
OLD_PYTHON ?= $(or $(shell python3.10 -c "import sys; print(sys.executable)" 2>/dev/null),$(PYTHON))
BIN := .venv/bin
SEED := $(or $(SEED),$(shell date +%s))

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint types docs serve format tables bench package clean

help:  ## Show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

demo: .venv/installed  ## Draw the skeletons of the people in a real photo, with the bundled weights
	$(BIN)/softgate-pose predict examples/photo.jpg --boxes examples/boxes.json --flip-test \
		--out out/poses.json --pictures out --overwrite
	@echo "Open out/photo.jpg."

test: .venv/installed-dev  ## Run all tests, in a random order; SEED=N repeats one
	@echo "The order of the tests: make test SEED=$(SEED)"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --randomly-seed=$(SEED)

test-lowest: .venv-lowest/installed  ## Run all tests with the oldest versions that are supported, on Python 3.10
	@echo "The order of the tests: make test-lowest SEED=$(SEED)"
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n 2 --randomly-seed=$(SEED)

lint: .venv/installed-dev  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev  ## Check types, strictly
	$(BIN)/mypy

docs: .venv/installed-dev  ## Build the site into site/; any warning is an error, which --quiet would undo
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: .venv/installed-dev  ## Show the site on http://127.0.0.1:8000, rebuilt as you edit
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: .venv/installed-dev  ## Put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: .venv/installed-dev  ## Write the model tables of README and docs from the measured JSON
	$(BIN)/python .ci/tables.py

bench: .venv/installed-dev  ## Measure speed beside other networks, in turns; about ten minutes on two cores
	$(BIN)/python -m benchmarks speed --out out/speed

package: .venv/installed-dev  ## Build the wheel, of at most 120 MB, and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m build
	@ls -l dist
	@test -z "$$(find dist -name '*.whl' -size +120000000c)" || { echo "The wheel is larger than 120 MB."; exit 1; }

clean:  ## Remove what was built, .venv included
	rm -rf .venv .venv-lowest build dist site out .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev,docs]"
	@touch $@

.venv-lowest/installed: .ci/lowest.txt pyproject.toml
	$(OLD_PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .ci/lowest.txt --editable ".[dev]"
	@touch $@
