# Every target first installs its requirements; a second run checks them within a second.

# Variables of a target:  make study STUDY=cifar10 TRIALS=30 WORKERS=2 HOURS=0.5 DATA=images.tar.xz
STUDY   ?= quickstart
TRIALS  ?=
WORKERS ?=
HOURS   ?=
DATA    ?=
NAME    ?=
TOP     ?=
SEEDS   ?=
EPOCHS  ?=
TRIAL   ?= 0
MODEL   ?=
IMAGES  ?=
PORT    ?= 8080
TO      ?=
STORAGE ?=
SETS    ?=
MINUTES ?=
ARMS    ?=
PYTHON  ?= python3
# Extras to install: postgres, ray (a list with spaces).
EXTRAS  ?=

# `make study DATA=photos` without a STUDY runs the study that fits itself to images.
FITS_IMAGES := $(if $(filter file,$(origin STUDY)),$(if $(value DATA),yes))

# Values come from the command line or the environment, and may have any character. Recipes read them from the
# environment, as "$$STUDY", where no shell interprets them. Neither does make, which would expand a $, and run the command
# of a $(shell ...).
VARIABLES := STUDY TRIALS WORKERS HOURS DATA NAME TOP SEEDS EPOCHS TRIAL MODEL IMAGES PORT TO STORAGE SETS MINUTES ARMS PYTHON EXTRAS
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(VARIABLES)

UV_VERSION := 0.13.9
UV := $(if $(shell command -v uv 2>/dev/null),uv,.uv/bin/uv)
EMPTY :=
UNKNOWN := $(filter-out postgres ray,$(EXTRAS))
$(if $(UNKNOWN),$(error EXTRAS may name postgres and ray, but got $(UNKNOWN)))
SETUP := .venv/installed$(if $(EXTRAS),-$(subst $(EMPTY) ,-,$(sort $(EXTRAS))))
CONVSEARCH := .venv/bin/convsearch

.DEFAULT_GOAL := help
.PHONY: help setup study resume final report export predict studies best show why compare completion worker workers serve stop validate dashboard doctor delete copy-study clean migrate test test-fast check soak soak-postgres bench bench-scale bench-sets lock

help:  ##| show this list
	@awk -F ':.*##|[|] ' '/^[a-z-]+:.*##/ { printf "  make %-34s %s\n", $$1 $$2, $$3 }' Makefile
	@echo "  study: also DATA=photos TRIALS= WORKERS= NAME=; more: .venv/bin/convsearch -h"

setup: $(SETUP)  ##| install into .venv (every target does)

study: $(SETUP)  ## STUDY=cifar10 HOURS=0.5 | run or continue a study
	@$(CONVSEARCH) run $${TRIALS:+--trials "$$TRIALS"} $${WORKERS:+--workers "$$WORKERS"} $${HOURS:+--hours "$$HOURS"} \
	  $(if $(FITS_IMAGES),,$${DATA:+--data "$$DATA"}) $${NAME:+--name "$$NAME"} -- "$$$(if $(FITS_IMAGES),DATA,STUDY)"

resume: $(SETUP)  ## STUDY=cifar10 | continue a stored study
	@$(CONVSEARCH) resume $${TRIALS:+--trials "$$TRIALS"} $${WORKERS:+--workers "$$WORKERS"} \
	  $${HOURS:+--hours "$$HOURS"} $${DATA:+--data "$$DATA"} -- "$$STUDY"

studies: $(SETUP)  ##| list the studies
	@$(CONVSEARCH) studies

best: $(SETUP)  ## STUDY=cifar10 TOP=5 | show the best trials
	@$(CONVSEARCH) best $${TOP:+--top "$$TOP"} -- "$$STUDY"

show: $(SETUP)  ## STUDY=cifar10 TRIAL=7 | show one trial
	@$(CONVSEARCH) show -- "$$STUDY" "$$TRIAL"

why: $(SETUP)  ## STUDY=cifar10 | show why trials were pruned or failed
	@$(CONVSEARCH) why -- "$$STUDY"

completion: $(SETUP)  ##| print the completion for bash
	@$(CONVSEARCH) completion bash

compare: $(SETUP)  ## STUDY=findings | show which changes helped
	@$(CONVSEARCH) compare -- "$$STUDY"

final: $(SETUP)  ## STUDY=cifar10 | train the best again, and test it
	@$(CONVSEARCH) final $${TOP:+--top "$$TOP"} $${SEEDS:+--seeds "$$SEEDS"} $${HOURS:+--hours "$$HOURS"} \
	  $${EPOCHS:+--epochs "$$EPOCHS"} $${WORKERS:+--workers "$$WORKERS"} $${DATA:+--data "$$DATA"} -- "$$STUDY"

report: $(SETUP)  ## STUDY=cifar10 | write all results on one page
	@$(CONVSEARCH) report -- "$$STUDY"

export: $(SETUP)  ## STUDY=cifar10 | write the best model to a folder
	@$(CONVSEARCH) export $${DATA:+--data "$$DATA"} -- "$$STUDY"

# IMAGES is one image or folder of any name, or several without spaces in their names, or patterns such as photos/*.jpg.
predict: $(SETUP)  ## MODEL=exports/cifar10 IMAGES=a.jpg | classify images
	@if [ -e "$$IMAGES" ]; then set -f; IFS=; fi; \
	  $(CONVSEARCH) predict -- "$${MODEL:-exports/$$STUDY}" $$IMAGES

worker: $(SETUP)  ## STORAGE=postgresql://... | run its open studies
	@$(CONVSEARCH) worker $${STORAGE:+--storage "$$STORAGE"} $${WORKERS:+--workers "$$WORKERS"} \
	  $${DATA:+--data "$$DATA"}

workers: $(SETUP)  ##| list workers and their trials
	@$(CONVSEARCH) workers

serve: $(SETUP)  ## PORT=8080 | run dashboard and workers
	@$(CONVSEARCH) serve --port "$$PORT" $${WORKERS:+--workers "$$WORKERS"} $${DATA:+--data "$$DATA"}

stop: $(SETUP)  ## STUDY=cifar10 | stop it on all machines
	@$(CONVSEARCH) stop -- "$$STUDY"

validate: $(SETUP)  ## STUDY=cifar10 | check a study file, run nothing
	@$(CONVSEARCH) validate $${DATA:+--data "$$DATA"} -- "$$STUDY"

dashboard: $(SETUP)  ## PORT=8080 | serve the dashboard
	@$(CONVSEARCH) dashboard --port "$$PORT"

doctor: $(SETUP)  ##| check this machine
	@$(CONVSEARCH) doctor

delete: $(SETUP)  ## STUDY=cifar10 | delete a study and its files
	@$(CONVSEARCH) delete -- "$$STUDY"

copy-study: $(SETUP)  ## STUDY=cifar10 TO=URL | copy it into another database
	@$(CONVSEARCH) copy-study --to "$$TO" -- "$$STUDY"

clean: $(SETUP)  ##| remove files that no study needs
	@$(CONVSEARCH) clean

migrate: $(SETUP)  ##| update an old database
	@$(CONVSEARCH) migrate

# Many tests wait for other processes: five at a time keep two cores busy.
test: check  ##| check, then all tests
	.venv/bin/python -m pytest --numprocesses 5 --dist loadgroup --durations 25

test-fast: $(SETUP)  ##| tests without processes or training
	.venv/bin/python -m pytest --numprocesses 3 --dist loadgroup -m 'not slow'

soak: $(SETUP)  ##| hundreds of faults, half an hour
	@.venv/bin/python -m tests.soak

soak-postgres: $(SETUP)  ##| faults of PostgreSQL, an hour
	@.venv/bin/python -m tests.soak --postgres

bench: $(SETUP)  ##| compare with stock, 14 minutes
	@.venv/bin/python -m tests.bench

bench-scale: $(SETUP)  ##| 1,000 simulated workers, half an hour
	@.venv/bin/python -m tests.bench scale

# SETS has names of archives in DATA, or paths without spaces.
bench-sets: $(SETUP)  ## DATA=FOLDER MINUTES=3 | image sets, beside an expert's script
	@set -f; .venv/bin/python -m tests.bench sets $${DATA:+--data "$$DATA"} $${SETS:+--sets $$SETS} \
	  $${MINUTES:+--minutes $$MINUTES} $${SEEDS:+--seeds $$SEEDS} $${ARMS:+--arms $$ARMS}

check: $(SETUP)  ##| lint, types, import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy --num-workers auto

# uv from the path, or a private one. Every package is checked by its hash. Byte-code is compiled once, here.
$(SETUP): pyproject.toml requirements.lock
	@command -v $(UV) >/dev/null || $(MAKE) --no-print-directory $(UV)
	@echo "installing into .venv (about 5 GB with the CUDA libraries of torch, half a minute to some minutes) ..." >&2
	$(UV) venv --quiet --allow-existing --python "$$PYTHON" .venv
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --compile-bytecode --require-hashes \
	  --requirement pyproject.toml $(foreach extra,dev $(EXTRAS),--extra $(extra)) --constraint requirements.lock
	VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	.venv/bin/python -m compileall -q data models search
	@touch $(SETUP)

.uv/bin/uv:
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12" >&2; exit 1; }
	"$$PYTHON" -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

requirements.lock: ;

lock: | $(filter .uv/bin/uv,$(UV))  ##| compile requirements.lock again
	$(UV) pip compile pyproject.toml --quiet --upgrade --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --output-file requirements.lock
