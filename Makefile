# Two commands: `make run` trains a driver and writes a report, `make test` runs the tests.
PYTHON ?= python3
LOGDIR ?= exp_dir
PRESET ?= laptop
BIN := .venv/bin

.PHONY: run test test-slow lint bench conformance conformance-sample clean

run: .venv/installed
	$(BIN)/worldmodels run --preset $(PRESET) --logdir $(LOGDIR)

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.carracing

conformance: .venv/installed-dev
	$(BIN)/python -m conformance

conformance-sample: .venv/installed-dev
	$(BIN)/python -m conformance --sample

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
