# Every target makes its own environment first; a second run does not install again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help bench-v1 bench-v2 bench-v3 bench-quick bench-all bench-publish bench-check bench-micro \
        bench-sensitivity bench-crash bench-overload bench-clients bench-growth bench-day \
        bench-flame bench-pauses bench-pgbench notebook run-v1 run-v2 run-v3 test lint diff charts clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench-v1: $(READY)  ## search the capacity of casev1: table and charts (10 minutes or more)
	$(BIN)/python -m bench capacity --version v1

bench-v2: $(READY)  ## the same for casev2
	$(BIN)/python -m bench capacity --version v2

bench-v3: $(READY)  ## the same for casev3
	$(BIN)/python -m bench capacity --version v3

bench-quick: $(READY)  ## the three cases with short trials and wide bounds (10 minutes)
	$(BIN)/python -m bench capacity --mode quick

bench-all: $(READY)  ## the three cases, and casev1 in two processes (30 minutes)
	$(BIN)/python -m bench capacity --version v1 v1x2 v2 v3

bench-publish: $(READY)  ## all modes with long trials, five interleaved repeats (4 hours or more)
	$(BIN)/python -m bench capacity --version v1 v1x2 v2 v2-wal v3 v3-wal --mode publish

bench-check: $(READY)  ## compare with the baseline: pass, regress, inconclusive (10 minutes)
	$(BIN)/python -m bench check

bench-micro: $(READY)  ## cost of the engine, the flush and a start, and how it grows (6 minutes)
	$(BIN)/python -m bench micro

bench-sensitivity: $(READY)  ## the quick search under each profile: is the order kept? (50 minutes)
	$(BIN)/python -m bench sensitivity

bench-crash: $(READY)  ## kill -9 under load, fifty times each: what is lost? (30 minutes)
	$(BIN)/python -m bench crash

bench-overload: $(READY)  ## three times the capacity for a minute, and back (6 minutes)
	$(BIN)/python -m bench overload

bench-clients: $(READY)  ## beside idle, dribbling, half-closed and deaf clients (6 minutes)
	$(BIN)/python -m bench clients

bench-growth: $(READY)  ## is a case slower with 10,000,000 orders in its tables? (20 minutes)
	$(BIN)/python -m bench growth

bench-day: $(READY)  ## two million orders as one run: is the end like the beginning? (10 minutes)
	$(BIN)/python -m bench day

bench-flame: $(READY)  ## a flame graph of each case at 80 % of its capacity (3 minutes)
	$(BIN)/python -m bench flame

bench-pauses: $(READY)  ## how long the garbage collector stops casev3, had in three ways (4 minutes)
	$(BIN)/python -m bench pauses

bench-pgbench: $(READY)  ## the statements of casev1 without casev1: the limit of its design (1 minute)
	$(BIN)/python -m bench pgbench

notebook: $(READY)  ## execute notebooks/capacity.ipynb again on the newest results (half a minute)
	$(BIN)/python -m bench notebook

run-v1: $(READY)  ## serve casev1 on http://127.0.0.1:8000 with an embedded PostgreSQL
	$(BIN)/python -m casev1

run-v2: $(READY)  ## serve casev2
	$(BIN)/python -m casev2

run-v3: $(READY)  ## serve casev3
	$(BIN)/python -m casev3

test: $(READY)  ## all tests, against a real PostgreSQL (10 minutes)
	$(BIN)/python -m pytest -m "not alone" --numprocesses 2 --dist worksteal -p no:benchmark
	$(BIN)/python -m pytest -m alone

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

diff:  ## what separates each case from the next
	@for pair in "casev1 casev2" "casev2 casev3"; do set -- $$pair; \
	  for file in app.py exchange.py; do \
	    git --no-pager diff --no-index $$1/$$file $$2/$$file || true; done; done

charts: $(READY)  ## draw the charts of the newest run of each kind again, from its raw data
	$(BIN)/python -m bench charts

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

REQUIREMENTS := constraints.txt requirements.txt requirements-embedded.txt requirements-dev.txt \
                bench/requirements.txt

$(READY): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
