# Every target sets up what it needs, once: sox and ffmpeg, .venv, the requirements. `make` alone lists them.

SHELL := /bin/sh
VENV := .venv
export PYTHONPATH := tests
RUN := $(VENV)/bin/python
TOOLS := .venv-tools
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(INSTALLED)-dev $(addprefix $(INSTALLED)-,$(patsubst requirements-%.txt,%,$(wildcard requirements-web.txt requirements-scale.txt))) $(INSTALLED)-axe
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: programs $(INSTALLED)  ## Synthesise songs, train on them, evaluate, and extract the vocals of one
	$(RUN) main.py demo

test: programs $(DEVELOPMENT)  ## Run the tests on all cores, doctests included; TESTS=tests/separation runs some of them
	$(RUN) -m pytest --numprocesses auto --dist worksteal $(TESTS)

lint: $(DEVELOPMENT)  ## Check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy .

bench: programs $(INSTALLED)  ## Measure speed beside nussl and scaper as they come; ARGS=extraction does one
	$(RUN) -m benchmarks $(ARGS)

stress: programs $(DEVELOPMENT)  ## Fuzz, kill, count and measure memory; ARGS="kills --kills 8" does one of them
	-@sh setup/requirements.sh $(RUN) requirements-fuzz.txt
	$(RUN) -m stress $(ARGS)

lock: $(TOOLS)/.installed  ## Write the lock files: every requirement with the hashes of all its files
	$(TOOLS)/bin/python tests/stress/lock.py

audit: $(TOOLS)/.installed  ## Look up known vulnerabilities of every locked requirement
	$(TOOLS)/bin/python tests/stress/audit.py

sbom: programs $(INSTALLED) $(TOOLS)/.installed  ## List all that is installed: sbom.json (CycloneDX), and a table of licences
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(RUN)
	$(TOOLS)/bin/pip-licenses --python $(RUN) --format markdown --order license

serve: programs $(INSTALLED)-web  ## Open the local web page
	$(RUN) main.py serve

setup: programs $(INSTALLED)  ## Only set up: programs, .venv and requirements
	@echo "Ready. Start with: $(RUN) main.py"

clean:  ## Remove .venv, caches and the demo; datasets, checkpoints and results stay
	rm -rf $(VENV) $(TOOLS) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo_output
	rm -rf build *.egg-info vendor/soxbindings/build vendor/soxbindings/soxbindings.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

programs:
	@sh setup/programs.sh

$(VENV)/.created:
	@PYTHON="$(PYTHON)" sh setup/python.sh $(VENV)
	@touch $@

$(INSTALLED): requirements.txt $(VENV)/.created pyproject.toml vendor/soxbindings/pyproject.toml
	@sh setup/requirements.sh $(RUN) $<
	@touch $@

$(INSTALLED)-axe: $(VENV)/.created  # what looks for obstacles on the page; without npm that test is skipped
	-@npm install --silent --no-save --no-package-lock --prefix $(VENV) axe-core@4.14.1
	@touch $@

$(INSTALLED)-%: requirements-%.txt $(INSTALLED)
	@sh setup/requirements.sh $(RUN) $<
	@touch $@

$(TOOLS)/.installed: requirements-tools.txt
	@PYTHON="$(PYTHON)" sh setup/python.sh $(TOOLS)
	@sh setup/requirements.sh $(TOOLS)/bin/python $<
	@touch $@

.PHONY: help demo test lint bench stress lock audit sbom serve setup clean programs
