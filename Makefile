# Each target sets up what it needs. On a fresh machine: python3 (3.11 or 3.12), make, network.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt

.PHONY: run test lint bench bench-check bench-record protos lock clean

run: .venv/run  ## start everything on this machine; Ctrl-C stops it
	@exec $(BIN)/hemavision up

test: .venv/dev .venv/browser lint  ## what CI runs
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

bench: .venv/model  ## the gateway beside the bare model server, FastAPI and Flask, in one run
	$(BIN)/python -m loadtest.bench

bench-check: .venv/model  ## the same; status 1 where it became slower than recorded
	$(BIN)/python -m loadtest.bench --check

bench-record: .venv/model  ## everything in the part "Benchmarks" of loadtest/README.md, anew
	$(BIN)/python -m loadtest.bench --record
	$(BIN)/python -m loadtest.capacity --record
	$(BIN)/python -m loadtest.fleet --record

.venv/model: .venv/dev
	$(BIN)/python -m export draw samples
	$(BIN)/python -m export saved-model --if-needed

protos: .venv/dev  ## generate gateway/protos/serving_pb2.py and .pyi
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. gateway/protos/serving.proto

lock: .venv/uv  ## choose the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		--extra dev --upgrade --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv models samples

# stamps: an installation is done again when what it was made from has changed
.venv/uv:
	@echo "setting up .venv"
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 13) or sys.exit(f"Python 3.11 or 3.12 is needed, this is {v.major}.{v.minor}: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

.venv/run: .venv/uv pyproject.toml constraints.txt
	@echo "installing"
	@$(UV) --editable '.[export]'
	@touch $@

.venv/dev: .venv/uv pyproject.toml constraints.txt
	@echo "installing, with what the tests need"
	@$(UV) --editable '.[dev]'
	@touch $@ .venv/run

.venv/browser: .venv/uv
	@command -v chromium >/dev/null || { echo "installing Chromium for the page's tests"; \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
		|| echo "no Chromium here: the page's tests will be skipped"
	@touch $@
