"""Clients that never come back after Kafka was restarted: how many, with this librdkafka?

    python -m bench.soak.reconnects --rounds 8 --clients 30

A broker that shuts down tells of no brokers for a moment. A librdkafka that forgets then all that
it knew stays away for ever, though Kafka is back (confluentinc/librdkafka#5301). Producers that ask
for metadata all along are there while the bundled Kafka is shut down and started again, round after
round; who cannot say a while later which brokers there are is lost, and replaced. Each of those has
to have said so by then (`headwater_client.kafka.BrokerWatch`), and nobody else.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import confluent_kafka
import typer
from confluent_kafka import KafkaException, Producer
from headwater_client.errors import ServerError
from headwater_client.topics import RECOMMENDATIONS
from rich.console import Console

from bench.harness import processes
from bench.harness.runner import Benchmark, Options, Results, work_folder
from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics, watched_config

_WARM_S, _BACK_S, _ANSWER_S, _EACH_S = 2.0, 30.0, 8.0, 0.02


@dataclass(frozen=True, kw_only=True)
class ReconnectOptions(Options):
    """How often, and how many."""

    rounds: Annotated[int, typer.Option(help="restarts of Kafka", min=1)] = 8
    clients: Annotated[int, typer.Option(help="producers at a time", min=1)] = 30


def _make_client(settings: Settings) -> Producer:
    return Producer(
        watched_config(settings.kafka)
        | {
            "message.timeout.ms": "0",
            "log_level": "0",
            # So often that there is a question in the moment that matters.
            "topic.metadata.refresh.interval.ms": "20",
        }
    )


@contextmanager
def _keep_busy(clients: list[Producer], said: set[Producer]) -> Iterator[None]:
    """Messages on all of them, until the end of the block; some are replaced meanwhile.

    Args:
        said: who has said that it is lost.
    """
    ended = threading.Event()

    def produce(at: int) -> None:
        while not ended.wait(_EACH_S):
            # The queue of one that waits is full.
            with suppress(BufferError):
                clients[at].produce(RECOMMENDATIONS, b"")
            try:
                clients[at].poll(0)
            except ServerError:
                said.add(clients[at])

    threads = [threading.Thread(target=produce, args=(at,)) for at in range(len(clients))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _is_lost(client: Producer) -> bool:
    try:
        return not client.list_topics(RECOMMENDATIONS, _ANSWER_S).brokers
    except KafkaException:
        return True


def measure(options: ReconnectOptions, console: Console) -> Results:
    """Restart Kafka, and count who is lost."""
    lost, missed, false = 0, 0, 0
    said: set[Producer] = set()
    with work_folder() as folder:
        wanted = processes.local_settings(folder)
        try:
            settings = local.up(wanted, only=["kafka"])
            ensure_topics(settings.kafka)
            clients = [_make_client(settings) for _ in range(options.clients)]
            with _keep_busy(clients, said):
                time.sleep(_WARM_S)
                for number in range(options.rounds):
                    local.down(wanted, only=["kafka"])
                    local.up(wanted, only=["kafka"])
                    time.sleep(_BACK_S)
                    gone = {client for client in clients if _is_lost(client)}
                    lost += len(gone)
                    missed += len(gone - said)
                    false += len(said - gone)
                    clients[:] = [
                        _make_client(settings) if each in gone else each for each in clients
                    ]
                    said.clear()
                    console.print(f"round {number + 1}: {len(gone)} lost", highlight=False)
        finally:
            local.down(wanted)
    librdkafka = confluent_kafka.libversion()[0]
    figures = {
        "librdkafka": librdkafka,
        "restarts": options.rounds,
        "clients": options.clients,
        "lost": lost,
        "not_told": missed,
        "told_falsely": false,
    }
    of = options.rounds * options.clients
    line = f"librdkafka {librdkafka}: {lost} of {of} lost, {missed} not told, {false} told falsely"
    return Results(figures, [line])


BENCHMARK = Benchmark("soak.reconnects", ReconnectOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
