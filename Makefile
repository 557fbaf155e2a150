# make quickstart   a pretrained, evaluated backbone and a page about it in minutes, on two CPU cores
# make test         the tests
# make lint         style, types and the files of .github
# make docs         the documentation as a site, in site/
#
# The virtual environment is .venv; it is made where it is missing. PYTHON is 3.10 or later. DALI is
# cuda13, or cuda12 where the NVIDIA driver is older than 580; without a GPU either works.

PYTHON ?= python3
VENV ?= .venv
DALI ?= cuda13
BIN := $(VENV)/bin
# Of recipes/accelerate: CONFIG=1gpu for a GPU.
CONFIG ?= cpu
ISSUE_FORMS := $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

.PHONY: quickstart test lint docs
.DELETE_ON_ERROR:

quickstart: $(VENV)/.demo
	$(BIN)/python -m bt_plugin demo-data data/demo
	$(BIN)/accelerate launch --config_file recipes/accelerate/$(CONFIG).yaml -m bt_plugin pretrain recipes/pretrain/quickstart.yaml
	$(BIN)/python -m bt_plugin report runs/quickstart

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms $(ISSUE_FORMS)
	$(BIN)/zizmor --quiet --no-progress --offline --min-severity medium .github
	@if command -v actionlint >/dev/null; then actionlint .github/workflows/*.yml; \
		else echo "actionlint is not installed, so expressions in .github/workflows are not checked"; fi

# docs/recipe_keys.md is in the repository, and a test says when it is out of date: python docs/recipe_keys.py writes it.
# Not --quiet, with which --strict counts no warnings. The variable silences the theme's word about mkdocs 2.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A stamp for each extra, demo or dev, so that the environment follows pyproject.toml.
$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[$*,$(DALI)]'
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "PYTHON=$(PYTHON) is older than 3.10; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
