# Every target sets up the environment it needs in .venv, once per change of the requirements.
PYTHON     ?= python3
EXPERIMENT ?= phantom
DATA_DIR   ?=
SET        ?=
VENV       := .venv
BIN        := $(VENV)/bin
STAMP      := $(VENV)/.installed-$(shell cat requirements.txt requirements-dev.txt constraints.txt pyproject.toml | cksum | cut -d' ' -f1)
BCGAN      := $(BIN)/bcgan
OPTIONS     = $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(foreach pair,$(SET),--set "$(pair)")

.DEFAULT_GOAL := help
.PHONY: help setup train report test test-fast lint docs tables ablation bench bench-slides gpu reliability audit clean

help: ## Show this list
	@echo 'bcgan: a GAN and a ResNet for breast histopathology patches. Research use only.'; echo
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
	@echo; echo 'Variables: EXPERIMENT=phantom (a YAML in pipelines/), DATA_DIR=folder-or-archive[:another], SET="key=value ..."'

setup: $(STAMP) ## Make the virtual environment .venv

$(STAMP):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("bcgan needs Python 3.11 to 3.13; %s is %d.%d. Remedy: make PYTHON=python3.12 ..." % (sys.executable, *v))'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

train: $(STAMP) ## Run EXPERIMENT's stages: preprocess, gan, translate, features, pretrain, classify, evaluate
	$(BCGAN) run $(EXPERIMENT) $(OPTIONS)

report: $(STAMP) ## Render reports/EXPERIMENT/ from what train left
	$(BCGAN) report $(EXPERIMENT) $(OPTIONS)

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP) ## Run the tests that train nothing, in about a minute
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

lint: $(STAMP) ## Check the style
	$(BIN)/ruff check bcgan tests docs
	$(BIN)/ruff format --check bcgan tests docs

docs: $(STAMP) ## Build the documentation as a site: build/site/index.html
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

tables: $(STAMP) ## Print every network's summary and compare Table 1 with the paper
	$(BCGAN) tables --out reports/tables

ablation: $(STAMP) ## Also run EXPERIMENT's ablation, cross-validation and learning curve, which take hours
	$(BCGAN) run $(EXPERIMENT) $(OPTIONS) --until learning_curve

reliability: $(STAMP) ## Kill a run 30 times, fill its disk, load a server for 10 minutes, score 100,000 patches
	BCGAN_KILLS=30 BCGAN_SOAK=600 BCGAN_PATCHES=100000 BCGAN_FUZZ=10000 $(BIN)/python -m pytest \
		tests/predict/test_campaigns.py tests/preprocess/test_hostile.py tests/test_full_disk.py tests/test_precision.py tests/test_installed.py

bench: $(STAMP) ## Measure speed beside PyTorch's, plain Keras's and the machine's limit: reports/bench/
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.txt -c constraints.txt
	$(BIN)/python -m bcgan.bench

bench-slides: $(STAMP) ## Time predictions of slides beside WSInfer and TIAToolbox: reports/bench/slides/
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-wsinfer.txt -c constraints.txt
	for peer in wsinfer tiatoolbox; do \
		test -x build/$$peer/bin/pip || $(PYTHON) -m venv build/$$peer; \
		build/$$peer/bin/pip install --quiet --disable-pip-version-check -r requirements-bench-$$peer.txt || exit 1; \
	done
	$(BIN)/python -m bcgan.bench.slides --wsinfer "$(CURDIR)/build/wsinfer/bin/python" \
		--tiatoolbox "$(CURDIR)/build/tiatoolbox/bin/python"

gpu: $(STAMP) ## The same on a GPU, which needs tensorflow[and-cuda] in .venv: reports/bench/gpu/
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.txt -c constraints.txt
	$(BIN)/python -m bcgan.bench.gpu

audit: ## Ask PyPI whether a version in constraints.txt has a known vulnerability
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --disable-pip --no-deps -r constraints.txt

clean: ## Remove the environment, caches and every run (reports stay)
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache
	find bcgan tests -name __pycache__ -prune -exec rm -rf {} +
