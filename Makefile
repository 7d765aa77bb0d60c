# One word for each thing that a person or CI does. All of it works from a clean clone.
#   make test            what CI runs           make test ARGS="tests/core -k clock"   a part of it
#   make check           style, types, layers, sizes
#   make VENV=~/envs/b   an environment of your own instead of .venv

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The release that everybody tests with. Installed before anything that asks for any torch at all.
TORCH ?= 2.13.0

RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.baton-installed
# What serving needs is less than what working on it needs, and is there sooner.
LOCAL := $(VENV)/.baton-local
CLIENTS := $(VENV)/.baton-clients
# An environment shared with another clone must still see this one's code.
export PYTHONPATH := $(CURDIR)/services:$(CURDIR)/shared

.DEFAULT_GOAL := help
.PHONY: help setup run clients test cluster check style types layers size manifests format clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/'

setup: $(STAMP) ## Make the environment; does nothing while pyproject.toml is unchanged

$(STAMP): pyproject.toml .ci/setup
	PYTHON=$(PYTHON) TORCH=$(TORCH) .ci/setup $(VENV) dev
	@touch $@ $(LOCAL)

$(LOCAL): pyproject.toml .ci/setup
	@echo "installing what Baton needs into $(VENV); this happens once"
	PYTHON=$(PYTHON) TORCH=$(TORCH) .ci/setup $(VENV) local
	@touch $@

$(CLIENTS): .ci/setup
	PYTHON=$(PYTHON) .ci/setup $(VENV) clients
	@touch $@

run: $(LOCAL) ## Serve the tiny model on http://localhost:8000: router, pods, Redis; Ctrl-C ends all of it
	@exec $(RUN) baton.cli up $(ARGS)

clients: setup $(CLIENTS) ## LangChain, LiteLLM and Locust, in an environment beside the project's, for their tests

test: setup clients ## Run the tests that need neither a GPU nor a cluster
	$(RUN) pytest $(ARGS)

cluster: setup ## Run the tests of a real cluster: KUBECONFIG's, or one beside the repository
	VENV=$(VENV) .ci/cluster $(ARGS)

check: style types layers size ## Everything that must hold before the tests run

style: setup ## Formatting and lint
	$(RUN) ruff format --check
	$(RUN) ruff check

types: setup ## mypy, strict
	$(RUN) mypy

layers: setup ## Who may import whom
	$(VENV)/bin/python -c 'from importlinter.cli import lint_imports_command as main; main()' --no-logo

manifests: setup ## Render the chart into manifests/
	$(VENV)/bin/python .ci/manifests.py

size: ## Lines per package, and the limits on modules and functions
	@$(PYTHON) .ci/size.py

format: setup ## Rewrite the code in the project's style
	$(RUN) ruff check --fix
	$(RUN) ruff format

clean: ## Remove everything that a clone does not have; leaves an environment given by VENV alone
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
