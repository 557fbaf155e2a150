# The virtual environment is .venv; it is made where it is missing. PYTHON is 3.10 or later. DALI is
# cuda13, or cuda12 where the NVIDIA driver is older than 580; without a GPU either works.

PYTHON ?= python3
VENV ?= .venv
DALI ?= cuda13
BIN := $(VENV)/bin
# A file of recipes/accelerate: CONFIG=1gpu for a GPU.
CONFIG ?= cpu
ISSUE_FORMS := $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
# The rooms whose tests run in seconds and need no DALI.
FAST := tests/test_architecture.py tests/test_recipes.py $(addprefix tests/bt_plugin/,cli config loss optim runs \
	training/test_step.py) $(addprefix tests/dali_pipelines/,sources test_shards.py views)

.PHONY: help quickstart test test-fast lint format docs docs-serve clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

quickstart: $(VENV)/.demo ## pretrain and evaluate a backbone in minutes, on two CPU cores, and write a page about it
	$(BIN)/bt-plugin demo-data data/demo
	$(BIN)/accelerate launch --config_file recipes/accelerate/$(CONFIG).yaml -m bt_plugin pretrain recipes/pretrain/quickstart.yaml
	$(BIN)/bt-plugin report runs/quickstart

test: $(VENV)/.dev ## run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.test-fast ## run the tests that take a minute: loss, sampling, draws, recipes, errors, one step
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not distributed and not gpu" $(FAST)

lint: $(VENV)/.dev ## check style, types, words, the Dockerfile and the files of .github
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/check_words.py
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms $(ISSUE_FORMS)
	$(BIN)/zizmor --quiet --no-progress --offline --min-severity medium .github
	@if command -v actionlint >/dev/null; then actionlint .github/workflows/*.yml; \
		else echo "actionlint is not installed, so expressions in .github/workflows are not checked"; fi

format: $(VENV)/.dev ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/recipe_keys.md is in the repository, and a test says when it is out of date: python docs/recipe_keys.py writes it.
# Not --quiet, with which --strict counts no warnings. The variable silences the theme's word about mkdocs 2.
docs: $(VENV)/.dev ## build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.dev ## show the documentation at http://127.0.0.1:8000 while you edit it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean: ## remove the site, the built packages and caches; the environment, runs and data stay
	rm -rf site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find bt_plugin dali_pipelines tests benchmarks docs examples -name __pycache__ -prune -exec rm -rf {} +

# A stamp for each extra, so that the environment follows pyproject.toml.
EXTRAS = $*,$(DALI)
$(VENV)/.test-fast: EXTRAS = test-fast
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "PYTHON=$(PYTHON) is older than 3.10; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
