"""Who answers at Triton's address may be no Triton: it is told, and looked after all the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import structlog
from headwater_client.errors import ServerError

from features.model_server import ModelServer, Reconciler, missing_versions
from features.rollout_messages import RoutedVersion, Variant

ROUTED = RoutedVersion(variant=Variant.STABLE, version=7, address="/models/temporal_llm/7", share=1)


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a gRPC server that knows none of Triton's calls."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_an_address_where_no_triton_answers_is_told_and_looked_at_again(stranger: str) -> None:
    triton = ModelServer(stranger)
    with pytest.raises(ServerError, match="UNIMPLEMENTED"):
        missing_versions(triton, [ROUTED])
    found = Reconciler(triton, lambda: [ROUTED])
    with structlog.testing.capture_logs() as told:
        assert [found.reconcile(), found.reconcile()] == [[7], [7]]
    (line,) = told
    assert line["event"] == "triton_away"
    assert "UNIMPLEMENTED" in line["reason"]
    assert "\n" not in line["reason"]


@pytest.mark.parametrize("url", ["127.0.0.1:9", "no such host:1", "[::1", "h:99999999"])
def test_whatever_an_address_is_nobody_stops_looking(url: str) -> None:
    found = Reconciler(ModelServer(url), lambda: [ROUTED])
    with structlog.testing.capture_logs():
        assert found.reconcile() == [7]
