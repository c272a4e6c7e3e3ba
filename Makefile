# `make demo` and `make test` do all the set-up they need, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SAMPLE := datasets/sample
LAB := datasets/lab/report
OUT := demo-out

.PHONY: help demo test test-slow lint format bench models notebooks docs clean

help:
	@echo "make demo       train on the sample's baseline, rank its test days"
	@echo "make test       install everything and run the tests"
	@echo "make test-slow  the slow tests too"
	@echo "make lint       ruff and mypy"
	@echo "make bench      benchmarks: ratios against the named peers"
	@echo "make models     train models/default.exfilml anew"
	@echo "make docs       build the documentation into build/docs"
	@echo "make notebooks  run the notebooks and keep their outputs"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(VENV)/.core
	@mkdir -p $(OUT)
	$(BIN)/exfilml train $(SAMPLE)/baseline.pcap --model $(OUT)/office.exfilml
	$(BIN)/exfilml rank $(SAMPLE)/test.pcap --model $(OUT)/office.exfilml --top 15
	$(BIN)/exfilml rank $(SAMPLE)/test.pcap --model $(OUT)/office.exfilml --quiet \
	    --out $(OUT)/cases.html
	@echo "$(OUT)/cases.html is the same as a page: open it in a browser"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@for file in tests/benchmarks/bench_*.py; do \
	    echo "== $$file"; $(BIN)/python $$file || exit 1; done

models: $(VENV)/.core
	$(BIN)/exfilml train $(LAB)/baseline.pcap.gz --model models/default.exfilml --seed 0

clean:
	rm -rf $(VENV) $(OUT) build dist

notebooks: $(VENV)/.dev
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
