# Everything a newcomer needs. Each target sets up what it needs in .venv by itself; only Python 3.11+ and make have to be there.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve demo test e2e check bench accuracy fuzz chaos outage overshoot dashboards sbom audit lock clean

help:  ## what there is to make
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/' | expand -t 20

serve: .venv/.run  ## run the proxy: API on 127.0.0.1:8400, console on 127.0.0.1:8401 (ARGS="--workers 4")
	$(BIN)/deepseek-meter serve $(ARGS)

demo: .venv/.run  ## proxy, simulator and steady traffic; no key, no cost (ARGS="--rate 20")
	$(BIN)/deepseek-meter demo $(ARGS)

test: .venv/.dev  ## all tests (ARGS="tests/metering -x")
	$(BIN)/python -m pytest $(ARGS)

e2e: .venv/.dev  ## real Prometheus and Alertmanager over two replicas: panels, alerts, sums (ARGS="--rolling-minutes 20")
	@sh deploy/tools.sh promtool prometheus alertmanager >/dev/null || echo "what is missing is said by the tests"
	$(BIN)/python -m pytest -m live -s tests/live $(ARGS)

check: .venv/.dev  ## formatting, lint, types, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python dashboards/build.py --check

bench: .venv/.dev  ## direct, a bare relay and the proxy, compared in one run (ARGS="--help")
	$(BIN)/python -m benchmarks $(ARGS)

accuracy: .venv/.dev  ## every recorded response in every cut: tokens reported, counted and estimated
	$(BIN)/python -m benchmarks.accuracy

fuzz: .venv/.dev  ## spoilt streams for the meter, on one core (ARGS="--chunks 10000000")
	PYTHONPATH=.:tests $(BIN)/python -m fuzz $(ARGS)

chaos: .venv/.dev  ## kill everything under traffic, then compare the books (ARGS="--runs 5 --seconds 60")
	@sh deploy/tools.sh prometheus >/dev/null || echo "no Prometheus: what it makes of the run is left out"
	PYTHONPATH=.:tests $(BIN)/python -m chaos $(ARGS)

outage: .venv/.dev  ## Redis away for ten minutes under load: memory, latency, catching up (ARGS="--minutes 1")
	$(BIN)/python -m benchmarks.outage $(ARGS)

overshoot: .venv/.dev  ## how far a budget is passed by clients that ask all at once (ARGS="--clients 128")
	PYTHONPATH=.:tests $(BIN)/python -m overshoot $(ARGS)

dashboards: .venv/.dev  ## write the dashboards anew from their code
	$(BIN)/python dashboards/build.py

sbom: .venv/.run  ## bill of materials of what runs, CycloneDX 1.6 (ARGS="bom.json")
	@$(BIN)/python deploy/sbom.py $(or $(ARGS),sbom.cdx.json)

audit:  ## known vulnerabilities of what is pinned; says so where nobody can be asked (needs pip-audit)
	@deploy/audit.sh $(ARGS)

lock: .venv/.dev  ## pin the dependencies anew, with hashes (needs the network, and uv)
	uv pip compile -q pyproject.toml --extra build --generate-hashes --no-emit-index-url --no-annotate --no-header --universal --python-version 3.11 --upgrade -o requirements.txt
	uv pip compile -q pyproject.toml --extra build --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --universal --python-version 3.11 --upgrade -o requirements-dev.txt

clean:  ## remove what was built and cached; data of serve and demo stays
	rm -rf .venv .tools build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.run: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

.venv/.dev: .venv/.run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
