# Every target sets up its own environment in .venv; a fresh machine needs python3 ≥ 3.11, make, git.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
PEERS  := .venv-peers/.ready
INTEROP := .venv-interop/.ready
# Many single-threaded test processes are faster than few that share threads.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-interop coverage lint types docs bench golden peers bench-peers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch goes first and alone, so that no other package can choose its version.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "saeworks needs Python 3.11 or newer; say which with PYTHON=..."; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	# torch for CUDA has brought the Triton that it needs, which then is the one we test with.
	if $(PY) -c 'import triton' 2>/dev/null; then grep -v '^triton==' constraints.txt; \
		else cat constraints.txt; fi > $(VENV)/constraints.txt
	$(PY) -m pip install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## groups, experts and their audit on the embedded model, in minutes, and the report
	$(PY) -m saeworks demo

test: $(READY)  ## all tests (PYTEST_ARGS="-k name" for some)
	$(PYTEST) $(PYTEST_ARGS)

coverage: $(READY)  ## all tests, and what of the package they run: into htmlcov/ and coverage.xml
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml $(PYTEST_ARGS)

# sae-lens needs other versions of the same packages, so it lives in an environment of its own.
$(INTEROP): tests/interop/requirements.txt
	test -x .venv-interop/bin/python || $(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet "$$(grep '^torch==' $<)"
	.venv-interop/bin/python -m pip install --quiet -r $<
	-.venv-interop/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

test-interop: $(READY) $(INTEROP)  ## the formats of other libraries, by these libraries themselves
	OMP_NUM_THREADS=2 $(PY) -m pytest tests/interop $(PYTEST_ARGS)

golden: $(READY)  ## losses and results of tiny runs, compared with those stored in tests/golden
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/golden

lint: $(READY)  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY)  ## mypy, strict: the package, its tests and tools
	$(PY) -m mypy

docs: $(READY)  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: $(READY)  ## one training step, by stage, beside what the machine allows
	$(PY) -m saeworks bench

# The peers need other versions of the same packages, so they live in an environment of their own.
$(PEERS): benchmarks/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet "$$(grep '^torch==' benchmarks/peers.txt)"
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt
	-.venv-peers/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

peers: $(PEERS)  ## the environment of the packages we compare with

bench-peers: $(READY) $(PEERS)  ## saeworks beside its peers: steps and pipelines (PEERS_ARGS="--quick")
	$(PY) benchmarks/peers.py $(PEERS_ARGS)

clean:  ## remove what the targets made, but not runs/
	rm -rf $(VENV) .venv-peers .venv-interop site build dist src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache htmlcov coverage.xml .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
