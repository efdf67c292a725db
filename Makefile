# Every target installs what it needs first; a second run checks that within a second.

# What a target takes:  make study STUDY=cifar10 TRIALS=30 WORKERS=2 HOURS=0.5 DATA=images.tar.xz
STUDY   ?= quickstart
TRIALS  ?=
WORKERS ?=
HOURS   ?=
DATA    ?=
NAME    ?=
TOP     ?= 5
TRIAL   ?= 0
PORT    ?= 8080
PYTHON  ?= python3
# Extras to install beside the base: postgres, ray, export (a list with spaces).
EXTRAS  ?=

UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
SETUP := .venv/installed
CONVSEARCH := .venv/bin/convsearch

.DEFAULT_GOAL := help
.PHONY: help setup study resume studies best show compare stop validate dashboard doctor delete clean test check

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP)  ## Install everything into .venv (the other targets do this by themselves)

study: $(SETUP)  ## Run a search; again: go on        make study STUDY=quickstart [TRIALS= WORKERS= HOURS= DATA= NAME=]
	@$(CONVSEARCH) run $(STUDY) $(if $(TRIALS),--trials $(TRIALS)) $(if $(WORKERS),--workers $(WORKERS)) \
	  $(if $(HOURS),--hours $(HOURS)) $(if $(DATA),--data $(DATA)) $(if $(NAME),--name $(NAME))

resume: $(SETUP)  ## Go on with a stored study         make resume STUDY=quickstart
	@$(CONVSEARCH) resume $(STUDY) $(if $(WORKERS),--workers $(WORKERS))

studies: $(SETUP)  ## List the studies
	@$(CONVSEARCH) studies

best: $(SETUP)  ## Show the best trials              make best STUDY=quickstart [TOP=5]
	@$(CONVSEARCH) best $(STUDY) --top $(TOP)

show: $(SETUP)  ## Show one trial                    make show STUDY=quickstart TRIAL=7
	@$(CONVSEARCH) show $(STUDY) $(TRIAL)

compare: $(SETUP)  ## Show which changes helped         make compare STUDY=findings
	@$(CONVSEARCH) compare $(STUDY)

stop: $(SETUP)  ## Stop a running study              make stop STUDY=quickstart
	@$(CONVSEARCH) stop $(STUDY)

validate: $(SETUP)  ## Check a study file, run nothing   make validate STUDY=cifar10
	@$(CONVSEARCH) validate $(STUDY) $(if $(DATA),--data $(DATA))

dashboard: $(SETUP)  ## Serve optuna-dashboard            make dashboard [PORT=8080]
	@$(CONVSEARCH) dashboard --port $(PORT)

doctor: $(SETUP)  ## Check this machine
	@$(CONVSEARCH) doctor

delete: $(SETUP)  ## Delete a study and its files      make delete STUDY=quickstart
	@$(CONVSEARCH) delete $(STUDY)

clean: $(SETUP)  ## Remove files that no study needs
	@$(CONVSEARCH) clean

test: check  ## Check the code and run all tests
	.venv/bin/python -m pytest

check: $(SETUP)  ## Lint, types, import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

# uv from the path, or a private one; every package by its hash; byte-code now, not at each start.
$(SETUP): pyproject.toml requirements.lock | $(UV)
	@echo "installing into .venv (about 5 GB with the CUDA libraries of torch, half a minute to some minutes) ..." >&2
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --compile-bytecode --require-hashes \
	  --requirement pyproject.toml $(foreach extra,dev $(EXTRAS),--extra $(extra)) --constraint requirements.lock
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	.venv/bin/python -m compileall -q data models search
	@touch $(SETUP)

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

requirements.lock: ;

lock: | $(UV)  ## Compile requirements.lock anew from pyproject.toml
	$(UV) pip compile pyproject.toml --quiet --upgrade --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --output-file requirements.lock
