# Two commands do all set-up on a fresh machine:
#   make search   a tracked search on the demo corpus; its best five confirmed with five fresh
#                 seeds each, the winner scored and promoted
#   make test     format, types and tests
# and, on a machine that does nothing else:
#   make test-long   the tests that take minutes: clusters over ssh and Slurm, whatever kills
#   make bench       measurements, ours beside limits and opponents, one after another
PYTHON ?= python3
BIN := .venv/bin
SEARCH_ARGS ?=

.PHONY: search test test-long lint types unit bench clean

search: .venv/ready
	$(BIN)/python search/run.py --trials 50 --epochs 60 --validation 0.375 --test 0.375 \
	  --confirm 5 --seeds 5 --promote $(SEARCH_ARGS)

test: lint types unit

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

unit: .venv/ready
	$(BIN)/pytest -m "not long"

# They wait now and then, so that two cores have work for three.
test-long: .venv/ready
	$(BIN)/pytest -m long -n 3

# One that misses its goal says so and does not keep the next from running.
BENCHMARKS := lmmd step preparing fused sharing wall_time
bench: .venv/ready
	@missed=0; for name in $(BENCHMARKS); do \
	  echo "== python -m benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name || missed=1; \
	done; exit $$missed

# uv resolves and unpacks the 7 GB stack in a fraction of pip's time. Compiled here, once: each of
# Ray's workers imports it anew, and where PYTHONDONTWRITEBYTECODE is set would compile it anew. So
# would numba what librosa uses, in each of the first processes that prepare speech.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("error: fdan-search needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "setting up .venv: 7 GB of packages, one to a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[test]'
	$(BIN)/python -m compileall -q fdan search tracking
	$(BIN)/python -c 'import numpy; from fdan.media import spectrogram; spectrogram.log_mel(numpy.zeros(2048, "f"), spectrogram.SpectrogramSettings())'
	touch .venv/ready

clean:
	rm -rf .venv
