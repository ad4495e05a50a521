"""People of a log who act without end, and what they are recommended meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.errors import ServerError
from headwater_client.events import Interaction

from bench.harness.workload import Order, generate_workload
from features.settings import BrokerSettings

_WAIT_S = 0.1
_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class SeenAnswer:
    """A recommendation as the app got it.

    Attributes:
        ill: another version than the person's own answered, or none.
        latency_ms: of the version's answer.
        produced_ms: when it was made.
    """

    user_id: str
    variant: str
    version: str
    rollout_id: str
    ill: bool
    latency_ms: float
    produced_ms: int


class Audience:
    """Sends a log's events, people mixed, at a steady rate; keeps what comes back.

    When the log has ended, other people do the same: so that clicks go on to say something.

    Args:
        rate: events a second.
    """

    def __init__(self, kafka: BrokerSettings, log: Sequence[Interaction], rate: float) -> None:
        self._kafka = kafka
        self._events: Iterator[Interaction] = generate_workload(log, Order.MIXED, newcomers=True)
        self._rate = rate
        self._stop = threading.Event()
        self._seen: list[SeenAnswer] = []
        self._consumer = RecommendationConsumer(kafka.client_settings)
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._send, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def take_seen(self) -> list[SeenAnswer]:
        """What came back since it was asked last."""
        seen, self._seen = self._seen, []
        return seen

    def wait(self, timeout_s: float) -> None:
        """Wait until somebody is answered.

        Raises:
            ServerError: nobody is in that time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._seen:
            if time.monotonic() > deadline:
                raise ServerError(f"no recommendation in {timeout_s:.0f} s")
            time.sleep(_WAIT_S)

    def close(self) -> None:
        """Send no more, read no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._consumer.close()

    def _send(self) -> None:
        with EventProducer(self._kafka.client_settings, {"log_level": 0}) as producer:
            begun_s, sent = time.monotonic(), 0
            while not self._stop.is_set():
                due = int((time.monotonic() - begun_s) * self._rate) - sent
                for event in islice(self._events, due):
                    producer.send(event)
                sent += due
                time.sleep(_TICK_S)

    def _read(self) -> None:
        while not self._stop.is_set():
            answer = self._consumer.receive(_WAIT_S)
            if answer is not None:
                self._seen.append(
                    SeenAnswer(
                        answer.user_id,
                        answer.variant,
                        answer.model_version,
                        answer.rollout_id,
                        bool(answer.failed) or answer.fallback,
                        answer.latency_ms or 0.0,
                        answer.produced_time,
                    )
                )
