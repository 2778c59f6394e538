# make demo   synthetic data -> shards -> training -> ensemble -> table and pictures, in demo/
# make test   the tests;  make check   lint, types and tests
# Each sets up .venv by itself (Python 3.11 to 3.13 and pip, nothing else).

.PHONY: test demo check clean

test: .venv/.done
	.venv/bin/python -m pytest

demo: .venv/.done
	.venv/bin/python -m report.demo

check: .venv/.done
	scripts/check

.venv/.done: pyproject.toml scripts/setup
	scripts/setup

clean:
	rm -rf demo .venv
