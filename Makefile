# Every target sets up what it needs. Variables: SCALE=laptop|gpu|full  SEEDS=n  JOBS=n  EXECUTOR=local
SCALE ?= laptop
SEEDS ?= 1
JOBS ?=
EXECUTOR ?= local
PYTHON ?= python3
BUDGET ?=

BIN := .venv/bin
READY := .venv/.ready
RUN := $(BIN)/novobench run --scale $(SCALE) --seeds $(SEEDS) --executor $(EXECUTOR) $(if $(JOBS),--jobs $(JOBS))
SEARCH := $(BIN)/novobench search --scale $(SCALE) $(if $(BUDGET),--budget $(BUDGET)) $(if $(JOBS),--jobs $(JOBS))
FAST_TESTS := $(BIN)/python -m pytest -n 2 -m "not slow and not long and not gpu"

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-long test-gpu lint format tables table1 table2 table3 table4 table5 table6 table7 \
	figure1 figure2 search wheel doctor clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: SCALE=laptop|gpu|full SEEDS=1 JOBS=(one a core; gpu: 8 a GPU) EXECUTOR=local"

setup: $(READY) ## make .venv with everything novobench needs (2 to 5 minutes, 6 GB)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[suite,espeak,tensorboard,test,lint]'
	@touch $@

test: lint ## lint and the fast tests (8 minutes on 2 cores)
	$(FAST_TESTS)

test-all: lint ## the slower tests that need no GPU, too (20 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 -m "not long and not gpu"

test-long: $(READY) ## thousands of wrong inputs, kills, a rehearsal of scripts/gpu_proof.sh (30 minutes on 2 cores)
	$(BIN)/python -m pytest -m long

test-gpu: $(READY) ## the tests that need a CUDA device
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy novobench

format: $(READY) ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: $(READY) ## all tables and figures at SCALE (laptop: 7 minutes on 2 cores)
	$(RUN) table1 table2 table3 table4 table5 table6 table7 figure1 figure2

table1 table2 table3 table4 table5 table6 table7 figure1 figure2: $(READY)
	$(RUN) $@
# `help` reads these lines; the rule for all of them is above.
table1: ## SGD, AdamW and NovoGrad on ResNet-50v2 (laptop: 30 s)
table2: ## large batches: NovoGrad against SGD recipes (laptop: 1 minute)
table3: ## NovoGrad with batches of 1K, 8K and 32K (laptop: 30 s)
table4: ## Adam, SGD and NovoGrad on Jasper DR, WER (laptop: 1 minute)
table5: ## NovoGrad on Jasper DR with batches of 512 to 32K (laptop: 90 s)
table6: ## Adam, AdamW and NovoGrad on a Transformer, with crossed dropout (laptop: 90 s)
table7: ## Adam, AdamW and NovoGrad on Transformer-XL (laptop: 80 s)
figure1: ## learning curves of Jasper DR: Table 5's trainings, none of its own
figure2: ## learning curves of Transformer-XL (laptop: 30 s)

search: $(READY) ## find the learning rates again, with the trials and seeds that the experiments name (laptop: 45 minutes)
	$(SEARCH) table1
	$(SEARCH) table3 --keys novograd-b256 novograd-b1024
	$(SEARCH) table2 --keys lars-b256 lars-b1024
	$(SEARCH) table4
	$(SEARCH) table5
	$(SEARCH) table6
	$(SEARCH) table7
	$(SEARCH) figure2

wheel: $(READY) ## build the wheel and the sdist into dist/
	$(BIN)/python -m hatchling build

doctor: $(READY) ## check this machine
	$(BIN)/novobench doctor

clean: ## remove .venv, caches and runs/ (results/ stay)
	rm -rf .venv runs build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
