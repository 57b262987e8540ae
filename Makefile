# `make run` and `make test` do all the set-up. Needed before: Python >= 3.11, make, git.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
# where pip is set up to look for local wheels, uv looks too; empty elsewhere
FIND_LINKS ?= $(shell $(PY) -m pip config get global.find-links 2>/dev/null)

.PHONY: run test lint unit workflow-test slurm postgresql schema clean
run: $(VENV)/.installed
	$(BIN)/snakemake --cores $(CORES)

test: lint unit workflow-test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" tests/unit

workflow-test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" tests/workflow

# a SLURM for the tests to start and stop
slurm:
	command -v slurmctld || { $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge; }

# a PostgreSQL for the tests to start and stop
postgresql:
	command -v initdb || ls /usr/lib/postgresql/*/bin/initdb || { $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql; }

schema: $(VENV)/.installed
	$(BIN)/python -m molvae.config > workflow/schemas/config.schema.yaml

# uv installs in a fifth of pip's time; where it cannot be had pip does the same from the same pins
install = test -x $(BIN)/python || $(PY) -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	&& VIRTUAL_ENV=$(abspath $(VENV)) UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt $(1) \
	|| $(BIN)/python -m pip install --quiet -c constraints.txt $(1)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,-e .)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(call install,-e '.[test]')
	touch $@

clean:
	rm -rf $(VENV)
