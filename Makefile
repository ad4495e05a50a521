.PHONY: check test test-fast bench demo

check:
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy
	uv run lint-imports

test:
	uv run pytest

test-fast:
	uv run pytest -m "not faults and not integration"

bench:
	uv run python -m bench.loop
	uv run python -m bench.quality

demo:
	uv run headwater demo
