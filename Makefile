# `make demo` and `make test` work on a fresh machine: each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

DATA ?=
SCALE ?= full

.PHONY: demo har test test-fast check format clean

demo: $(READY)
	$(BIN)/dinolab demo runs/demo

har: $(READY)
	$(BIN)/dinolab job har data='$(DATA)' out=runs/har scale=$(SCALE)

# two processes of one thread each: most tests are small
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("dinolab needs Python 3.11 or later; name one: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv
