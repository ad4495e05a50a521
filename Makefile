.PHONY: check test test-fast docs bench demo reference

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

# What is made from the code and kept: documents, gRPC's messages, the TypeScript client's types.
reference:
	uv run headwater config --reference > docs/reference/settings.md
	uv run headwater schema > docs/reference/asyncapi.json
	uv run headwater schema --http > docs/reference/openapi.json
	uv run headwater schema --grpc > docs/reference/headwater.proto
	uv run python -m grpc_tools.protoc -I docs/reference --python_out stream/api headwater.proto
	npm --prefix clients/typescript ci --no-audit --no-fund
	npm --prefix clients/typescript run generate
