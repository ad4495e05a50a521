.PHONY: check test test-fast docs bench demo

check:
	./hw check

test:
	./hw test

test-fast:
	./hw test -m "not faults and not integration"

docs:
	uv run --group docs sphinx-build -q -W -b html docs site

bench:
	uv run python -m bench.loop
	uv run python -m bench.quality

demo:
	./hw demo
