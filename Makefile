# Everything runs in .venv, made on first use; `make demo` and `make test` work from a fresh clone.

# The versions in constraints.txt were tested on 3.11, so that one is preferred. PYTHON=... overrides it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
EXTRAS := report,serve,gguf,ray,dev
PIP_QUIET ?= --quiet

.DEFAULT_GOAL := help
.PHONY: help install lint format quick test test-all bench demo demo-real docs results constraints clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## Make .venv with the tested versions; again only when they changed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "driftlm needs Python 3.11 or newer with its venv module; found none. Install it or give PYTHON=/path/to/python." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_QUIET) -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

lint: $(INSTALLED) ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two processes of one thread each: most tests run models too small to share among threads. Each process begins with
# half of the files, and takes from the other's when it is done.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(INSTALLED) ## ruff on what changed; short unit tests and conformance on one model family
	@changed=$$({ git diff --name-only --diff-filter=d HEAD; git ls-files --others --exclude-standard; } | grep '\.py$$'); \
		$(BIN)/ruff check $${changed:-.} && $(BIN)/ruff format --check $${changed:-.}
	$(PYTEST) -m "not (slow or long or command or process)" --family llama

test: lint ## Lint, then the tests and doctests, without the slow ones; the ten slowest are named
	$(PYTEST) --durations=10

test-all: lint ## Lint, then every test, the slow ones too
	$(PYTEST) -m ""

bench: $(INSTALLED) ## Timings and ratios
	$(BIN)/python -m benchmarks

demo: $(INSTALLED) ## A first result: the bundled model reads, learns, and reports
	$(BIN)/driftlm demo

demo-real: $(INSTALLED) ## The same with SmolLM2-135M, fetched once (93 MB), on text it cannot have seen
	$(BIN)/driftlm demo --real

docs: $(INSTALLED) ## The documentation site, in build/site
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_QUIET) -c constraints.txt -e ".[$(EXTRAS),docs]"
	$(BIN)/python -m recipes.documentation

results: $(INSTALLED) ## Make the shipped results again (hours)
	$(BIN)/python -m recipes.results

constraints: ## Resolve the newest versions anew, torch excepted, and write constraints.txt
	rm -rf build/constraints
	"$(PYTHON)" -m venv build/constraints
	grep '^torch==' constraints.txt > build/torch.txt
	build/constraints/bin/python -m pip install $(PIP_QUIET) -c build/torch.txt -e ".[report,data,serve,gguf,ray,docs,dev]"
	grep '^#' constraints.txt > build/constraints.txt
	build/constraints/bin/python -m pip freeze --all --exclude-editable \
		| grep -vE '^(pip|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+|colorama)==' | sed -E 's/\+[a-z0-9.]+$$//' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

# build/bundled stays: it may hold the checkpoints of a long training run.
clean: ## Remove .venv, wheels and caches
	rm -rf $(VENV) build/constraints dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
