# Everything a fresh machine needs is Python 3.11 or newer; `make demo` and `make test` do the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: install demo check test test-reliability bench docs table

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "residual needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,logging]'
	@touch $@

demo: install
	$(BIN)/residual demo

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(TESTS)

test-reliability: install
	$(BIN)/python -m pytest -q -m "reliability or not reliability" tests/reliability

bench: install
	$(BIN)/python benchmarks/train_cifar.py

docs: install
	$(BIN)/sphinx-build -q -W -b html docs docs/_build
	@echo "open docs/_build/index.html"

table: install
	$(BIN)/python -m residual.report.table README.md results
