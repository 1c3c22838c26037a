# Every target does its own set-up, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml MANIFEST.in $(shell find registryd gc twisted conf -type f -not -path '*/__pycache__/*')
# The real-client tests share two engines; the rest is spread over the processors.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: run test soak lint bench docs clean

run: $(VENV)/.installed
	$(BIN)/registryd serve

test: $(VENV)/.test
	$(PYTEST) -m 'not soak' $(ARGS)

soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps .
	rm -rf build
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet '.[lint]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet '.[docs]'
	touch $@
