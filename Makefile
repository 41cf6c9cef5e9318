# Two commands do everything on a fresh machine: `make bench` and `make test`.
PYTHON_BIN = .venv/bin/python
UMEM = .venv/bin/umem
PYTEST = $(PYTHON_BIN) -m pytest
# Compiles what the cache lacks, on all cores: part of setting up, so that neither a measurement nor a test waits.
PREPARE = $(PYTHON_BIN) -c 'from umem.space.ahead import compile_all; compile_all()'

# Tests count only what is their own (processes, files in /dev/shm) and judge no speed: files of them run two at a time.
TWO_AT_A_TIME = -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help bench test verify bars check-long lint types docs sass

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

bench: ## says what this machine's memory is, and writes report.html (under 90 s; compiles what it needs first)
	@scripts/setup
	$(UMEM) verdict

test: ## all tests but the soaks (under 6 minutes; judges no speed)
	@scripts/setup dev
	@$(PREPARE)
	$(PYTEST) $(TWO_AT_A_TIME)

verify: ## correctness: bounded soaks and kills (under 20 minutes)
	@scripts/setup dev
	@$(PREPARE)
	$(PYTEST) -m soak --timeout 900 $(TWO_AT_A_TIME)

check-long: ## the soaks again, longer, and what takes hours
	@scripts/setup dev
	$(PYTEST) -m "soak or long" --timeout 14400 --soak-factor 20

bars: ## every bar of bench/bars.toml: ratios measured on this machine (exit 1 if one fails)
	@scripts/setup torch peers dev
	@$(PREPARE)
	$(UMEM) bench --bars all

lint: ## ruff: rules and format
	@scripts/setup dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: ## mypy over umem, kernels and bench included
	@scripts/setup dev
	.venv/bin/mypy --package umem

docs: ## writes the generated pages in docs/
	@scripts/setup dev
	$(PYTHON_BIN) scripts/write_reference.py
	$(PYTHON_BIN) scripts/write_protocol.py

sass: ## writes docs/sass.md: the machine code of every CUDA kernel, counted (minutes where kernels have changed)
	@scripts/setup dev
	$(PYTHON_BIN) scripts/write_sass.py
