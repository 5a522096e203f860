# make book    run the notebooks and build the site into _build/html   (BUDGET=test, JOBS=1, ARGS="-p seed 3")
# make site    build the site again from the notebooks that already ran
# make test    every test, in two processes                           (ARGS="-k jacobians", WORKERS=0 for one)
# make serve   the site on http://localhost:8000                      (PORT=8000)
# make full    every frozen result at the paper's sizes, on a GPU; goes on where it stopped  (ARGS="-p dataset mnist")
# make bench   speed and memory, as ratios
# make lint    ruff
# make colab   clean notebooks for Colab into build/colab
# make zip     the whole site in one file, _build/grae-book-<version>.zip
# make edition whether package, citation, list of changes and tag say one version   (GRAE_EDITION=v0.1.0)
# make published   what the static host serves, in _build/published: the site, and the released zips of build/releases
# make links   follow every outside link of the site
# make clean   remove everything derived, the environment excepted

PYTHON ?= python3
BUDGET ?= book
JOBS ?= 2
WORKERS ?= 2
PORT ?= 8000
FID = -p budget full -p latent_dim 128 -p features inception -p precision bfloat16 -p step graph $(ARGS)
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed

MAKEFLAGS += --no-print-directory
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := book
.PHONY: book site test serve full bench lint colab zip edition published links clean

book: $(READY)
	@$(PY) -m tools.run_notebooks --budget $(BUDGET) --jobs $(JOBS) $(ARGS)
	@$(MAKE) site

site: $(READY)
	@$(PY) -m tools.stage_book
	@$(PY) -m tools.build_book

test: $(READY)
	@$(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

serve: $(READY)
	@test -f _build/html/index.html || $(MAKE) book
	@echo "http://localhost:$(PORT)  (stop with Ctrl-C)"
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

full: $(READY)
	@$(PY) -m tools.run_notebooks --only 30 31 --budget full --out build/full \
	  -p latent_dim 128 -p precision bfloat16 -p step graph -p checkpoints build/full/checkpoints $(ARGS)
	@$(PY) -m grae_helpers.sweep notebooks/32_fid_of_one_model.py --out build/full/fid $(FID) \
	  --grid objective=beta_vae,grae_approx --grid beta=0.001,0.005,0.01,0.02,0.05,0.1,0.2,0.4,1 --grid seed=0,1,2,3,4
	@$(PY) -m grae_helpers.sweep notebooks/32_fid_of_one_model.py --out build/full/fid $(FID) -p beta 0.1 \
	  --grid objective=rae_gradient,rae_l2,rae_spectral,autoencoder --grid seed=0,1,2,3,4
	@$(PY) -m tools.run_notebooks --only 33 --budget full --out build/full -p sweep build/full/fid
	@$(PY) -m tools.run_notebooks --only 22 23 --budget full --out build/full
	@$(PY) -m tools.run_notebooks --only 12 --budget full --out build/full -p compiled true -p folder build/full/study

bench: $(READY)
	@for file in benchmarks/*.py; do echo "== $$file"; $(PY) "$$file"; done

lint: $(READY)
	@$(PY) -m ruff check .

colab: $(READY)
	@$(PY) -m tools.export_colab

zip: $(READY)
	@if test -f _build/html/index.html; then $(MAKE) site; else $(MAKE) book; fi
	@$(PY) -m tools.offline

edition: $(READY)
	@$(PY) -m tools.editions

published: $(READY)
	@$(PY) -m tools.publish

links: $(READY)
	@$(PY) -m tools.stage_book
	@$(PY) -m tools.build_book --linkcheck

clean:
	@rm -rf build _build .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# The stamp is the last thing written, so an interrupted installation starts over.
$(READY): requirements.txt pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing the environment into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
