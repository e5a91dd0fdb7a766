# make demo | make demo-page | make test | make docs: each sets up .venv on a fresh machine (Python >= 3.10) and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-page test lint format docs clean

demo: $(STAMP)
	$(BIN)/python tools/train.py experiment=demo run_dir=runs/demo resume=never

demo-page: $(STAMP)
	$(BIN)/python tools/demo.py

# The long files come first. What Python and pytest compile is kept, also where the environment says otherwise.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	.ci/lint

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(STAMP): setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[test,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
