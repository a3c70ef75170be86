# The workshop. Every target makes the environment it needs first (./bootstrap.sh), which costs nothing the next time.
#
#   make demo ARGS="--duration 90 --speed 20 --report report.json"

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean
ARGS ?=
BENCH ?= park_load simulators_serve collector_rates store_rates

help:
	@echo "make demo   a whole park on this machine   (ARGS=\"--duration 90 --speed 20\")"
	@echo "make test   all tests, two at a time       (ARGS=\"tests/park -x\": those, one by one)"
	@echo "make check  lint, types, import rule, secrets"
	@echo "make bench  measurements (BENCH=\"park_load collector_rates\"; see benchmarks/)"
	@echo "make clean  remove caches and build products"

demo:
	@./bootstrap.sh run
	@exec .venv/bin/symbiosis demo $(ARGS)

test:
	@./bootstrap.sh dev
	@exec .venv/bin/pytest $(or $(ARGS),-n 2 --dist worksteal)

check:
	@./bootstrap.sh dev
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	@./.ci/secrets

bench:
	@./bootstrap.sh dev
	@set -e; for bench in $(BENCH); do echo "== $$bench"; .venv/bin/python -m benchmarks.$$bench $(ARGS); done

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
