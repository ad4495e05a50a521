"""How Kafka is asked about itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from headwater_client.errors import ServerError

from features.kafka import watched_config
from features.kafka.admin import watch_brokers
from features.settings import BrokerSettings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("question", [".describe_cluster(", ".list_offsets("])
def test_nobody_asks_what_ends_the_process(question: str) -> None:
    # librdkafka's AdminClient aborts where a broker that slept answers these: `read_metadata`.
    rooms = ("clients/python", "features", "stream", "trainer", "deploy", "bench")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if question in path.read_text()] == []


def poll_for_long(client: Producer | Consumer) -> None:
    """Poll until something is raised; a poll ends with whatever happens."""
    for _ in range(200):
        client.poll(0.05)


def tell(watch: Callable[[str], None], **sources: str) -> None:
    """A client tells of the brokers that it knows."""
    watch(json.dumps({"brokers": {name: {"source": each} for name, each in sources.items()}}))


def test_a_client_that_knows_no_broker_any_more_is_told_of() -> None:
    watch = watch_brokers()["stats_cb"]
    # One that waits for Kafka, one that is about to begin anew, and one that is well.
    for sources in ({"a": "configured"}, {}, {"a": "learned", "group": "logical"}, {}):
        tell(watch, **sources)
    with pytest.raises(ServerError, match=r"told of no brokers .* begins anew"):
        tell(watch, group="logical")
    # It is told again where nobody has done anything about it.
    tell(watch)
    with pytest.raises(ServerError):
        tell(watch)


def test_librdkafka_tells_of_brokers_as_expected_and_raises_where_it_is_polled() -> None:
    told: list[str] = []

    def take(statistics: str) -> None:
        told.append(statistics)
        watch_brokers()["stats_cb"](statistics)
        raise ServerError("as of a client that is lost")

    settings = BrokerSettings(bootstrap_servers="127.0.0.1:1")
    chosen = {"stats_cb": take, "statistics.interval.ms": "50", "log_level": "0"}
    for client in (
        Producer({**watched_config(settings), **chosen}),
        Consumer({**watched_config(settings), **chosen, "group.id": "g"}),
    ):
        with pytest.raises(ServerError, match="lost"):
            poll_for_long(client)
        brokers = json.loads(told[-1])["brokers"]
        assert {each["source"] for each in brokers.values()} >= {"configured"}
