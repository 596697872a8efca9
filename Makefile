# Two commands do all set-up on a fresh machine:
#   make search   a tracked search on the demo corpus; its winner confirmed, scored, promoted
#   make test     format, types and tests
PYTHON ?= python3
BIN := .venv/bin
SEARCH_ARGS ?=

.PHONY: search test lint types unit clean

search: .venv/ready
	$(BIN)/python search/run.py --promote $(SEARCH_ARGS)

test: lint types unit

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

unit: .venv/ready
	$(BIN)/pytest

# uv resolves and unpacks the 7 GB stack in a fraction of pip's time.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("fdan-search needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "setting up .venv: 7 GB of packages, one to a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[test]'
	touch .venv/ready

clean:
	rm -rf .venv
