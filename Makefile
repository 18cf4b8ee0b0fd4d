# `make tables` and `make test` do everything on a machine with Python 3.11; see README.md.
SHELL := bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= twin
CORES ?= all
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help env tables claims test test-all bench bench-gpu coverage lint types lock clean
help:           ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

env: $(VENV)/.ready  ## the pinned environment
$(VENV)/.ready: requirements.lock pyproject.toml workflows/envs/install.sh
	$(PYTHON) -m venv $(VENV)
	bash workflows/envs/install.sh $(BIN)/python
	touch $@

tables: env     ## run a study and write its leaderboards (STUDY=twin|twin-long|open|iu|smoke|ablation|efficiency|paper)
	@bash workflows/run.sh $(STUDY) $(CORES)

claims: env     ## what the studies say about the papers' claims (results/claims.md); runs twin, ablation and efficiency first
	@bash workflows/run.sh twin $(CORES)
	@bash workflows/run.sh ablation $(CORES)
	@bash workflows/run.sh efficiency $(CORES)
	$(BIN)/mlip claims

test: env       ## the tests (a real run of the smoke study among them)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: env   ## the tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"
	$(BIN)/python -m pytest -m slow

bench: env      ## measured speed, as ratios against a stated alternative
	$(BIN)/python -m benchmarks.speed

bench-gpu: env  ## how fast the five methods train on this machine's GPU, and how much of it they use
	$(BIN)/python -m benchmarks.gpu

coverage: env   ## how often intervals and comparisons are right, on simulated studies; written into docs/tables.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage

lint: env       ## ruff, import-linter, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check Snakefile workflows
	$(BIN)/snakemake --lint

types: env      ## mypy
	$(BIN)/mypy

lock: env       ## renew requirements.lock from pyproject.toml (no registry address goes into it)
	$(BIN)/uv lock && $(BIN)/uv export -q --no-emit-project --no-annotate --no-header -o requirements.lock && rm uv.lock
	sed -i "s/^# requirements.lock sha256: .*/# requirements.lock sha256: $$(sha256sum requirements.lock | cut -d' ' -f1)/" workflows/envs/mlip.post-deploy.sh

clean:          ## remove everything computed (not the environment, not results/)
	rm -rf work .snakemake
