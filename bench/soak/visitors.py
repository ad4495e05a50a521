"""Who clicks and asks while something is tried: a few people, at a steady rate."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import Producer
from headwater_client import encode
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction
from headwater_client.topics import PARTITIONER

from deploy.settings import Settings
from features.kafka import client_config
from trainer.datasets import Log

CLICKS, ASKS = 20.0, 5.0
"""A second, of all together."""

PEOPLE = 200
# Events at once, which take a worker minutes.
_CROWD = 150_000
_SPEC = EVENT_TYPES["click"]
_ANSWER_S = 10


class Visitors:
    """People who click and ask.

    Args:
        log: whose items they take.
        api, key: whom they ask, and with what.

    Attributes:
        bad_events: makes a message to `clicks` by a number, after each fifth click; None: none.
        limits: what they ask for lists besides.
    """

    def __init__(self, settings: Settings, log: Log, api: str, key: str) -> None:
        self.bad_events: Callable[[int], tuple[bytes, bytes] | None] = lambda _: None
        self.limits: Mapping[str, Any] = {}
        self._producer = Producer(
            {**client_config(settings.kafka), "partitioner": PARTITIONER, "log_level": "0"}
        )
        self._items = sorted({event.item_id for event in log.events})
        self._api, self._key = api, key
        self._number = 0
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(rate, action), daemon=True)
            for rate, action in ((CLICKS, self._click), (ASKS, self._ask))
        ]

    @contextmanager
    def run(self) -> Iterator[None]:
        """They come, until the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()

    def _repeat(self, rate: float, action: Callable[[], None]) -> None:
        while not self._ended.wait(1 / rate):
            action()

    def make_click(self, number: int, event_id: str = "", ahead_ms: int = 0) -> Interaction:
        """A click of somebody on something."""
        return _SPEC.struct(
            event_id=event_id or f"drill-{number}",
            user_id=f"drill-p{number % PEOPLE}",
            item_id=self._items[number % len(self._items)],
            timestamp=int(time.time() * 1000) + ahead_ms,
        )

    def crowd(self) -> None:
        """So many click at once."""
        for number in range(_CROWD):
            self.send_click(self.make_click(number, f"crowd-{number}"))
        self._producer.flush()

    def send_click(self, click: Interaction) -> None:
        """Send one."""
        self.send(_SPEC.topic, *pack(click))

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        """Send a message."""
        while True:
            try:
                self._producer.produce(topic, value, key)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _click(self) -> None:
        self._number += 1
        self.send_click(self.make_click(self._number))
        if self._number % 5 == 0 and (bad := self.bad_events(self._number)):
            self.send(_SPEC.topic, *bad)

    def _ask(self) -> None:
        person = f"drill-p{self._number % PEOPLE}"
        with suppress(OSError):
            self._call("/v1/recommendations", {"person": person, **self.limits})
        with suppress(OSError):
            self._call(f"/v1/people/{person}", None)

    def _call(self, path: str, body: Mapping[str, Any] | None) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._api + path, data, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
            answer.read()


def pack(click: Interaction) -> tuple[bytes, bytes]:
    """The key and the value of a message."""
    return click.user_id.encode(), encode(click)
