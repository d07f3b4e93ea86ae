# Every target does its own set-up: a virtual environment in .venv and the packages it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 2

# The main job: what `make demo` runs.
DEMO   ?= examples/prune_vgg16.py

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint check clean

help:
	@echo "make demo       prune a VGG16 on real images, end to end"
	@echo "make test       the fast tests"
	@echo "make test-slow  the tests marked slow"
	@echo "make lint       ruff (rules and format) and mypy"
	@echo "make check      lint, test and test-slow"
	@echo "make clean      remove the virtual environment and the caches"

demo: $(VENV)/.examples
	$(BIN)/python $(DEMO)

test: $(VENV)/.test
	$(PYTEST)

# pytest's status 5 means that no test is marked slow, which is no failure.
test-slow: $(VENV)/.test
	$(PYTEST) -m slow || [ $$? -eq 5 ]

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test test-slow

# The stamps are written last, so an interrupted installation is taken up again.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.examples: setup.py pyproject.toml $(VENV)/.created
	@echo "Installing what the examples need into $(VENV) …"
	$(PIP) --editable ".[examples,report]"
	touch $@

$(VENV)/.test: setup.py pyproject.toml $(VENV)/.created
	@echo "Installing what the tests need into $(VENV) …"
	$(PIP) --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
