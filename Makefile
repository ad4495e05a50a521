.PHONY: check test test-fast docs bench demo

check:
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy
	uv run lint-imports
	uv run python tools/measure_code.py

test:
	uv run pytest

test-fast:
	uv run pytest -m "not faults and not integration"

docs:
	uv run --group docs sphinx-build -q -W -b html docs site

bench:
	uv run python -m bench.loop
	uv run python -m bench.quality

demo:
	uv run headwater demo
