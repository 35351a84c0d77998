# Two commands: `make sweep` and `make test`. Both set up .venv first and reuse it while it is up to
# date. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: sweep test check clean

sweep: $(READY)
	$(BIN)/ftbench sweep

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal

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
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' || { \
	  echo "set-up: pip could not install ftbench; the lines above say which package, torch needs about 6 GB of disk" >&2; exit 1; }
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
