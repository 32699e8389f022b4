# Every target sets up what it needs; nothing is assumed to be running.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.DEFAULT_GOAL := help

# The suites start hundreds of processes. Without bytecode each would compile all that it imports, three times its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## make the virtual environment with every locked dependency (minutes, once)

# uv comes from the package registry, as all else does: the machine needs Python and pip alone.
$(READY): uv.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --active --quiet --frozen --all-extras --compile-bytecode
	@touch $@

.PHONY: lock
lock: $(READY) ## bring uv.lock up to what pyproject.toml asks for
	@$(BIN)/uv lock --quiet

.PHONY: demo
demo: $(READY) ## import, convert and transfer a real disk image, with a kill -9 in between
	@$(BIN)/python demo/demo.py

.PHONY: serve
serve: $(READY) ## run the service, with its data in ./wherry-data
	@$(BIN)/wherry serve

.PHONY: fmt
fmt: $(READY) ## format the code
	@$(BIN)/ruff format src tests demo bench scripts
	@$(BIN)/ruff check --fix src tests demo bench scripts

.PHONY: lint
lint: $(READY) ## check format, rules and layers (seconds)
	@$(BIN)/ruff format --check src tests demo bench scripts
	@$(BIN)/ruff check src tests demo bench scripts
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/sync_client.py --check
	@$(BIN)/python scripts/request_guide.py --check

.PHONY: request-guide
request-guide: $(READY) ## write docs/guide/requests.md from the table of what becomes of each field
	@$(BIN)/python scripts/request_guide.py

.PHONY: sync-client
sync-client: $(READY) ## generate the sync client from the async one
	@$(BIN)/python scripts/sync_client.py

.PHONY: types
types: $(READY) ## check the types (a minute)
	@$(BIN)/mypy
	@$(BIN)/pyright

.PHONY: test
test: $(READY) ## run the tests, two at a time; most of what check takes
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: test-chosen
test-chosen: $(READY) ## run the slow proofs that a change must pass (minutes)
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "slow and chosen"

.PHONY: test-pythons
test-pythons: $(READY) ## run the unit suites on every other supported Python here (minutes each)
	@scripts/test_pythons.sh

.PHONY: test-slow
test-slow: $(READY) ## run all slow proofs: deaths at many points, long random runs, the benchmark (hours)
	@$(BIN)/python -m pytest -m slow

.PHONY: clients
clients: $(READY) ## install DigitalOcean's clients and others, and run them against the service
	@$(BIN)/python -m pytest tests/clients

.PHONY: fault
fault: $(READY) ## kill the service at every crash point (hours)
	@WHERRY_FAULTS=all $(BIN)/python -m pytest -m "slow or not slow" tests/fault

.PHONY: soak
soak: $(READY) ## kill one of three workers every second, for SECONDS=300, under load
	@$(BIN)/python -m bench.soak --seconds $(or $(SECONDS),300)

.PHONY: siege
siege: $(READY) ## attack a service in every way at once for SECONDS=60, beside a well-behaved client
	@$(BIN)/python bench/siege.py --seconds $(or $(SECONDS),60)

.PHONY: bench
bench: $(READY) ## measure, against cp, rclone and moto, and write bench/results.json
	@$(BIN)/python bench/bench.py

.PHONY: simulate
simulate: $(READY) ## run many workers on a fake clock, with all that can go wrong (SEED=1)
	@$(BIN)/python -m bench.simulate --seed $(or $(SEED),1)

.PHONY: check
check: lint types test ## check format, rules, types and tests
