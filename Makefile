# `make run` and `make test` do the whole set-up. They need Python >= 3.11, make and git.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := $(VENV)/oldest
CORES ?= all
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.PHONY: run test lint unit workflow-test benchmark-test test-oldest slurm postgresql schema clean
run: $(VENV)/.installed
	$(BIN)/snakemake --cores $(CORES)

test: lint unit workflow-test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" tests/unit tests/benchmarks
	$(BIN)/python -m pytest --doctest-modules --ignore=molvae/tracking/pyfunc.py molvae

workflow-test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" tests/workflow

# Run every benchmark program with --quick.
benchmark-test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow tests/benchmarks

# Run the unit tests with the oldest releases that pyproject.toml allows, in an environment of their own.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not slow" tests/unit

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PY) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[postgresql]' pytest hypothesis
	touch $@

# Install a SLURM for the tests to start and stop.
slurm:
	command -v slurmctld || { $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge; }

# Install a PostgreSQL for the tests to start and stop.
postgresql:
	command -v initdb || ls /usr/lib/postgresql/*/bin/initdb || { $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql; }

# Write what follows from molvae/config.py: the schema of the config file, and the page that explains its keys.
schema: $(VENV)/.installed
	$(BIN)/python -m molvae.config > workflow/schemas/config.schema.yaml
	$(BIN)/python docs/write_configuration.py

install = test -x $(BIN)/python || $(PY) -m venv $(VENV); $(BIN)/python -m pip install --quiet -c constraints.txt $(1)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,-e .)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(call install,-e '.[test]')
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST)
