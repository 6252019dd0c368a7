# Every target sets up what it needs. `make help` lists targets and variables.
SCALE ?= laptop
SEEDS ?= 1
JOBS ?=
PYTHON ?= python3
TRIALS ?=

BIN := .venv/bin
READY := .venv/.ready
RUN := $(BIN)/novobench run --scale $(SCALE) --seeds $(SEEDS) $(if $(JOBS),--jobs $(JOBS))
SEARCH := $(BIN)/novobench search --scale $(SCALE) $(if $(TRIALS),--trials $(TRIALS)) $(if $(JOBS),--jobs $(JOBS))
FAST_TESTS := $(BIN)/python -m pytest -n 2 -m "not slow and not long and not gpu"

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-long test-gpu lint format docs tables rivals claims search rubric wheel doctor clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: SCALE=laptop|gpu|full, SEEDS=<per row, or 100-109>, JOBS=<cells at a time>, TRIALS=<per search>, PYTHON=python3"

setup: $(READY) ## install everything into .venv (2 to 5 minutes, 6 GB)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[suite,espeak,rivals,tensorboard,test,lint]'
	@touch $@

test: lint ## lint and the fast tests (8 minutes on 2 cores)
	$(FAST_TESTS)

test-all: lint ## lint and all tests that need no GPU, except test-long (30 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 -m "not long and not gpu"

test-long: $(READY) ## invalid inputs, kills, optimizers in two processes, a rehearsal of scripts/gpu_proof.sh (70 minutes on 2 cores)
	$(BIN)/python -m pytest -m long

test-gpu: $(READY) ## the tests that need a CUDA device
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy novobench

format: $(READY) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## renew what the Makefile and README say about experiments, and experiments about seed noise
	$(BIN)/python scripts/renew_docs.py

# Written by `make docs`:
EXPERIMENTS := table1 table2 table3 table4 table5 table6 table7 figure1 figure2
RIVALS := rivals_image rivals_language rivals_translation
CLAIMS := claim_32k_updates claim_batch_1k claim_beta1 claim_beta2_image claim_beta2_language claim_decay_32k claim_dropout claim_init_scale claim_long_speech claim_long_training claim_lr_range claim_moments claim_outliers claim_sngd claim_warmup_image claim_warmup_language claim_warmup_translation
table1: ## ResNet-50v2: SGD, AdamW and NovoGrad (laptop: 45 s)
table2: ## ResNet-50v2, large batches: NovoGrad and three SGD recipes (laptop: 1.5 minutes)
table3: ## ResNet-50v2: NovoGrad with batches of 1K, 8K and 32K (laptop: 20 s)
table4: ## Jasper DR, a speech recognizer: Adam, SGD and NovoGrad (laptop: 1.5 minutes)
table5: ## Jasper DR: NovoGrad with batches of 512 to 32K (laptop: 1.5 minutes)
table6: ## a Transformer that translates: Adam, AdamW and NovoGrad (laptop: 1.5 minutes)
table7: ## Transformer-XL: Adam, AdamW and NovoGrad (laptop: 2.5 minutes)
figure1: ## Jasper DR: learning curves of Table 5's cells (laptop: none after Table 5)
figure2: ## Transformer-XL: learning curves, gap between training and validation (laptop: 1 minute)
rivals_image: ## ResNet-50v2: AdamW, Muon, Schedule-Free, SOAP, Lion and NovoGrad's three forms (laptop: 20 s)
rivals_language: ## Transformer-XL: AdamW, Muon, Schedule-Free, SOAP, Lion and NovoGrad's three forms (laptop: 2.5 minutes)
rivals_translation: ## a Transformer that translates: AdamW, Muon, Schedule-Free, SOAP, Lion and NovoGrad's three forms (laptop: 1 minute)
claim_32k_updates: ## Jasper DR: NovoGrad with batch 32K and the updates of batch 16K (laptop: 1 minute)
claim_batch_1k: ## ResNet-50v2, batch 1K, 90 epochs: SGD, LARS, AdamW and NovoGrad (laptop: 15 s)
claim_beta1: ## ResNet-50v2: NovoGrad with β₁ from 0.8 to 0.98 and steps of equal size (laptop: 10 s)
claim_beta2_image: ## ResNet-50v2: NovoGrad with β₂ from 0 to 0.999 (laptop: 15 s)
claim_beta2_language: ## Transformer-XL: NovoGrad with β₂ from 0 to 0.999 (laptop: 1 minute)
claim_decay_32k: ## ResNet-50v2, batch 32K: NovoGrad with one and five times the weight decay (laptop: 10 s)
claim_dropout: ## a Transformer that translates: Adam, AdamW and NovoGrad with equal dropout (laptop: 40 s)
claim_init_scale: ## ResNet-50v2: SGD, AdamW and NovoGrad with initial variances from 1/16 to 16 times the usual one (laptop: 30 s)
claim_long_speech: ## Jasper DR: SGD and NovoGrad at three lengths (laptop: 2 minutes)
claim_long_training: ## ResNet-50v2: SGD, AdamW and NovoGrad for 100, 200 and 300 epochs, with training accuracy (laptop: 1 minute)
claim_lr_range: ## ResNet-50v2: SGD, AdamW and NovoGrad at rates from 1/8 to 8 times the tuned one (laptop: 40 s)
claim_moments: ## ResNet-50v2: NovoGrad with decoupled decay, with an averaged first moment, and with a second moment from 0 (laptop: 10 s)
claim_outliers: ## ResNet-50v2: NovoGrad, NovoGrad that normalizes the first moment, and AdamW, with and without outliers (laptop: 30 s)
claim_sngd: ## ResNet-50v2: SGD with and without normalization of the gradient at three batches (laptop: 20 s)
claim_warmup_image: ## ResNet-50v2, batch 32K: SGD, AdamW and NovoGrad with and without warm-up (laptop: 20 s)
claim_warmup_language: ## Transformer-XL: Adam and NovoGrad with and without warm-up (laptop: 50 s)
claim_warmup_translation: ## a Transformer that translates: Adam and NovoGrad with and without warm-up (laptop: 50 s)
# End of what `make docs` writes.

tables: $(READY) ## all tables and figures at SCALE (laptop: 10 minutes on 2 cores)
	$(RUN) $(EXPERIMENTS)
	$(BIN)/novobench claims --scale $(SCALE)

rivals: $(READY) ## optimizers of other authors on three of the paper's tasks (laptop: 4 minutes on 2 cores)
	$(RUN) $(RIVALS)

claims: $(READY) ## tests of the paper's claims that no table has, and the verdict on each claim (laptop: 8 minutes on 2 cores)
	$(RUN) $(CLAIMS)
	$(BIN)/novobench claims --scale $(SCALE)

.PHONY: $(EXPERIMENTS) $(RIVALS) $(CLAIMS)
$(EXPERIMENTS) $(RIVALS) $(CLAIMS): $(READY)
	$(RUN) $@

search: $(READY) ## repeat the search for learning rates (laptop: 2.5 hours on 2 cores)
	$(SEARCH) $(EXPERIMENTS) $(RIVALS) $(CLAIMS)

rubric: $(READY) ## everything that the paper prints: implemented, runs, matches; the tree at SCALE, counts at every scale
	$(BIN)/novobench rubric --scale $(SCALE)
	$(BIN)/novobench rubric

wheel: $(READY) ## build the wheel and the sdist into dist/
	$(BIN)/python -m hatchling build

doctor: $(READY) ## check this machine
	$(BIN)/novobench doctor

clean: ## remove .venv, caches and runs/, but not results/
	rm -rf .venv runs build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
