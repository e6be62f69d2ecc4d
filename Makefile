# Every target works on a fresh machine: it first sets up .venv, if it is missing.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# for `make har`: where the data set is, and how large the job is (smoke, small, full)
DATA ?=
SCALE ?= full

# for `make gpu-check`: some pieces by name (default all but har), and cpu for a trial without a GPU
PIECE ?=
DEVICE ?= auto

.PHONY: demo har gpu-check test test-fast check docs format clean

# train on small built-in images, about four minutes on 2 CPU cores
demo: $(READY)
	$(BIN)/dinolab demo runs/demo

# the job on Human Action Recognition: make har DATA=archive.zip SCALE=smoke
har: $(READY)
	$(BIN)/dinolab job har data='$(DATA)' out=runs/har scale=$(SCALE)

# on a machine with a GPU: tests and benchmarks, in pieces of at most 9 minutes; results in docs/results
gpu-check: $(READY)
	$(BIN)/python benchmarks/gpu_check.py $(PIECE) --device $(DEVICE) --data '$(DATA)'

# all tests, in two processes of one thread each because most tests are small
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

# without the slow tests
test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# style, types, and the rules of imports
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the docs site, into site/; any warning or broken link is an error
docs: $(READY)
	$(BIN)/python -m scripts.docs

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("dinolab needs Python 3.11 or later; name one: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $(READY)

clean:
	rm -rf .venv
