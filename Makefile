# make demo    synthetic data -> shards -> training -> ensemble -> table and report, in demo/
# make test    the tests, but for those that take minutes; make test-long runs these
# make check   format, lint, types and tests
# Each sets up .venv by itself: it takes Python 3.11 to 3.13 with pip, nothing else.

.PHONY: demo test test-long lint check clean

demo: .venv/.done
	.venv/bin/python -m report.demo

# A test that runs for so many seconds hangs: it is named, with the stacks of its threads, and the run ends.
LIMIT = --max-worker-restart 0 -o faulthandler_exit_on_timeout=true -o faulthandler_timeout

test: .venv/.done
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not long" $(LIMIT)=900

test-long: .venv/.done
	.venv/bin/python -m pytest -n auto --dist loadfile -m long $(LIMIT)=3600

lint: .venv/.done
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

check: lint test

.venv/.done: pyproject.toml requirements.lock scripts/setup
	scripts/setup

clean:
	rm -rf .venv demo
