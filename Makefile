# `make run` and `make test` set everything up by themselves. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= quickstart
DATA ?=
READ_AS ?= pairs
MODEL ?=
PRESET ?=
VERSIONS ?=
SEED ?= 0
CASES ?= 10
KILLS ?= 50

.PHONY: run test test-fast chaos fuzz compat memory-check lab bench bench-data label-error lint clean

# The stamp is newer than what it was made from, or is made again. pip, not uv: it takes a local torch where there is one.
$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adslm: Python 3.11 or newer is needed / Python 3.11 以上が必要です。例: make run PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

run: $(VENV)/ready
	$(BIN)/adslm run --run "$(RUN)" --data "$(DATA)" --read-as "$(READ_AS)" --model "$(MODEL)" --preset "$(PRESET)"

test: $(VENV)/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/run_all.sh

test-fast: $(VENV)/ready
	$(BIN)/python -m pytest tests/unit

# Ten times the cases of `make test`, other ones with each SEED.
fuzz: $(VENV)/ready
	ADSLM_FUZZ=$(CASES) $(BIN)/python -m pytest tests/fuzz -p no:cacheprovider --hypothesis-seed=$(SEED)

# A training killed KILLS times at any moment, every file operation made to fail, every rung of the ladders.
chaos: $(VENV)/ready
	$(BIN)/python scripts/chaos.py --kills $(KILLS) --seed $(SEED)

# The same recipe under every TRL: an environment for each in .compat/. VERSIONS="0.9.6 1.16.0" takes some of them and writes no page.
compat: $(VENV)/ready
	$(BIN)/python tests/compat/run.py $(VERSIONS) $(if $(VERSIONS),,--write docs/compat.md)

lab: $(VENV)/ready
	$(BIN)/jupyter lab notebooks

# Our engine against TRL (about 6 minutes on 2 quiet cores), then start-up and the default recipe. FULL=1: every shape and vocabulary, two older TRL too, docs/results/engine.md.
bench: $(VENV)/ready
	$(BIN)/python scripts/benchmark_engine.py $(if $(FULL),--full --versions 0.18.1 0.29.1 --write,--quick)
	$(BIN)/python scripts/benchmark.py

# How long a log and an audit take, from 10^4 to 10^6 rows. BIG=1 adds a log of 10^7 rows.
bench-data: $(VENV)/ready
	$(BIN)/python scripts/benchmark_data.py $(if $(BIG),--big)

# How often each rule of labelling is wrong, on logs whose truth is known.
label-error: $(VENV)/ready
	$(BIN)/python scripts/label_error.py --write

memory-check: $(VENV)/ready
	OMP_NUM_THREADS=2 $(BIN)/python scripts/memory_check.py

lint: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .compat build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
