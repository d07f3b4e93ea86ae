# Every target does its own set-up: a virtual environment in .venv and the packages it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n 2 --dist=worksteal

# The versions of the test environment. The pins are of Python 3.11 and later; on 3.10 pip chooses.
# `make test CONSTRAINTS=` tests with the newest versions of everything.
CONSTRAINTS ?= $(shell $(PYTHON) -c 'import sys; print("constraints.txt" * (sys.version_info >= (3, 11)))')

# The oldest Python there is: python3.10 if it runs (a shim of pyenv may not), pyenv's own, python3.
OLDEST_PYTHON ?= $(shell for python in python3.10 "$$(pyenv root 2>/dev/null)"/versions/3.10.*/bin/python python3; \
	do "$$python" -c "" 2>/dev/null && command -v "$$python" && break; done)
OLDEST_VENV   ?= .venv-oldest

# The main job: what `make demo` runs.
DEMO   ?= examples/prune_vgg16.py

export TF_CPP_MIN_LOG_LEVEL ?= 2

.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-oldest test-package lint format check clean

help:
	@echo "make demo          prune a VGG16 on real images, end to end"
	@echo "make test          the fast tests"
	@echo "make test-slow     the tests marked slow"
	@echo "make test-oldest   the fast tests with the oldest supported versions, in .venv-oldest"
	@echo "make test-package  build wheel and sdist, install each, run the quick start"
	@echo "make lint          ruff (rules and format), mypy and the order of the imports"
	@echo "make format        put the code into ruff's format and sort the imports"
	@echo "make check         lint, test and test-slow"
	@echo "make clean         remove the virtual environments and the caches"

demo: $(VENV)/.examples
	$(BIN)/python $(DEMO)

test: $(VENV)/.test
	$(BIN)/python $(PYTEST)

# pytest's status 5 means that no test is marked slow, which is no failure.
test-slow: $(VENV)/.test
	$(BIN)/python $(PYTEST) -m slow || [ $$? -eq 5 ]

test-oldest: $(OLDEST_VENV)/.test
	$(OLDEST_VENV)/bin/python $(PYTEST)

test-package: $(VENV)/.test
	.ci/check_package.sh $(BIN)/python $(CONSTRAINTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --select=I --fix .
	$(BIN)/ruff format .

check: lint test test-slow

# The stamps are written last, so an interrupted installation is taken up again.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.examples: pyproject.toml $(VENV)/.created
	@echo "Installing what the examples need into $(VENV) …"
	$(BIN)/python $(PIP) --editable ".[examples,report]"
	touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) $(VENV)/.created
	@echo "Installing what the tests need into $(VENV) …"
	$(BIN)/python $(PIP) $(addprefix --constraint ,$(CONSTRAINTS)) --editable ".[test]"
	touch $@

# The pip that comes with Python 3.10 needs ten minutes to resolve this, a new one seconds.
$(OLDEST_VENV)/.test: pyproject.toml constraints-oldest.txt
	@echo "Installing the oldest versions into $(OLDEST_VENV), with $(OLDEST_PYTHON) …"
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python $(PIP) --upgrade pip
	$(OLDEST_VENV)/bin/python $(PIP) --constraint constraints-oldest.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST_VENV) build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
