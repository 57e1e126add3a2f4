# make demo: the main job in a fresh .venv.  make test: the whole test suite.  make test-unsloth: the tests of training
# with the older libraries that unsloth needs.  make check: everything CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The platform's own packages are left out on purpose: a venv without them reuses nothing by accident.
TORCH := torch==2.13.0
UNSLOTH_TESTS := tests/training/test_warmup.py tests/training/test_losses.py tests/training/test_policy_dpo.py

.PHONY: demo test test-unsloth check lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/rubric-arm demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-unsloth: $(VENV)/.installed-dev
	PYTHONPATH="$(CURDIR)/$(VENV)/unsloth" $(BIN)/python -m pytest -n 2 --dist worksteal $(UNSLOTH_TESTS)

check: lint docs test test-unsloth

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch comes first and alone: with it in place nothing asks for a CUDA build on a machine that has no use for one.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt constraints-unsloth.txt tests/unsloth_cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	rm -rf $(VENV)/unsloth
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/unsloth \
		-c constraints-unsloth.txt -r tests/unsloth_cpu.txt
	touch $@ $(VENV)/.installed

# Links and references are checked; the site is build/site.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
