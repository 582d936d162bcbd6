# make run: everything on http://127.0.0.1:8000.  make test: all tests.  make test-fast: those of units.  Environment: .venv.

# The first of Python 3.11 and 3.12 that really runs (a shim on PATH may not).
PYTHON := $(firstword $(foreach p,python3.11 python3.12 python3,$(shell $(p) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13)' 2>/dev/null && echo $(p))))
BIN := .venv/bin
APT := $(if $(filter 0,$(shell id -u)),apt-get,sudo apt-get)

PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
# Those that measure want both cores.
ALONE := tests/perf tests/soak

.PHONY: run test test-fast lint bench gpu soak clean

run: .venv/.worker
	@$(BIN)/latentd up

# Three at a time on two cores, since many wait for processes; in their order, which has the longest in front.
test: .venv/.dev chromium tools
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(ALONE))
	$(PYTEST) $(ALONE)

# At most 90 s on two cores.
test-fast: .venv/.dev tools
	$(PYTEST) -n 2 --dist loadfile tests/unit

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/latentd bench
	$(BIN)/latentd bench engine
	$(BIN)/latentd bench serve
	$(BIN)/latentd bench paper
	$(BIN)/python -m tests.perf.gateway_rate
	$(BIN)/python -m tests.perf.gateway_limits
	$(BIN)/python -m tests.perf.redis_limits
	$(BIN)/python -m tests.perf.validate_plan

# Tests and benches that want a CUDA device, in half an hour; their tables go into docs/benchmarks.md.
# On a machine that files are carried to: python -m tests.gpu.pack.
gpu: .venv/.dev
	@$(BIN)/python -m tests.gpu.run --out build/gpu; status=$$?; \
	test ! -f build/gpu/summary.json || $(BIN)/python -m tests.gpu.tables build/gpu; exit $$status

soak: .venv/.dev
	$(BIN)/python -m tests.soak --log docs/soak.md
	$(BIN)/python -m tests.soak.steady --log docs/steady-soak.md
	$(BIN)/python -m tests.soak.rolling --log docs/rolling-restart.md

clean:
	rm -rf .venv

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { $(APT) update -q && $(APT) install -y -q --no-install-recommends chromium; }

# Prometheus and promtool check deploy/; nginx stands before gateways that are restarted in turn; Redis has TLS, which the
# Valkey in the wheel hasn't.
.PHONY: tools
tools:
	@export PATH="$$PATH:/usr/sbin"; for tool in nginx prometheus redis-server; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	test -z "$$missing" || { $(APT) update -q && $(APT) install -y -q --no-install-recommends $$missing; }

# Debian without python3-venv leaves a Python and no pip.
.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "latentd needs Python 3.11 or 3.12, and neither runs here: install one of them."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.worker: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[worker]'
	@touch $@

.venv/.dev: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[worker,train,dev]'
	@touch $@ .venv/.worker
