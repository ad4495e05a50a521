"""Sends events and items.

>>> from headwater_client import EventProducer, KafkaSettings
>>> def example() -> None:
...     with EventProducer(KafkaSettings("localhost:9092")) as events:
...         events.item("lamp-7", title="Desk lamp", category=["lighting"], price=29.0)
...         events.click(user_id="ann", item_id="lamp-7")
"""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headwater_client.actions import Impression
from headwater_client.errors import DeliveryError, EventError, QueueFullError, Undelivered
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Click, Interaction, Item, Purchase, decode, encode
from headwater_client.kafka import TOLD_MS, BrokerWatch, KafkaSettings, ProcessBound, sending
from headwater_client.topics import ITEMS, PARTITIONER
from headwater_client.tracing import Headers, trace_headers

CLOSE_TIMEOUT_S = 30.0
MAX_WAIT_S = 30.0
FORK_WAIT_S = 2.0
FULL_QUEUE_POLL_S = 0.05
# While it waits, a client may say that it is lost.
FLUSH_STEP_S = 1.0
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # noqa: SLF001  (their public names)

Options = Mapping[str, str | int | bool]
InteractionT = TypeVar("InteractionT", bound=Interaction)
log = logging.getLogger("headwater_client")


class WhenFull(StrEnum):
    """What happens to the next message when the local queue is full.

    The queue fills when Kafka is away, or slower than the app, for long: it has room for 100,000
    messages (librdkafka's `queue.buffering.max.messages`).
    """

    WAIT = "wait"
    """Wait for room, at most `max_wait_s`; then `QueueFullError`."""
    RAISE = "raise"
    """`QueueFullError` at once."""
    DROP = "drop"
    """The message is dropped and counted: an app that must answer loses events, not time."""


class EventProducer(ProcessBound):
    """Sends events and items; each is checked by the event contract before it leaves.

    Guarantees:

    - What was accepted reaches Kafka once, however often the producer has to try (idempotence).
    - Messages of one person keep their order.
    - No call waits for ever: for a full queue at most `max_wait_s`, and not at all if you say so.
    - A message that is given up (after librdkafka's `message.timeout.ms`, five minutes by default)
      raises `DeliveryError` from the next call, at the latest from `flush` or `close`. With
      `on_undelivered` that is called instead; with `WhenFull.DROP` it is counted instead.
    - A client that Kafka's shutdown left without brokers for good (`BrokerWatch`) is made anew with
      the next message, and is given what the old one had.
    - Leaving the `with` block waits for all that was sent.
    - An event that the app sends again with the same event_id counts once.
    - A message carries the trace that is current where the app has OpenTelemetry (`traceparent`).
    - It may be made before a fork (gunicorn, celery, multiprocessing): parent and child connect
      anew, each with its next message. A fork waits for what is queued, at most two seconds; what
      is queued then stays the parent's to deliver.

    Make one when the app starts and keep it: its first message takes half a second, the others less
    than a millisecond. Threads may share it.

    Args:
        settings: where Kafka is.
        options: more of librdkafka's configuration (`linger.ms`, `compression.type`).
        when_full: what happens when the local queue is full.
        max_wait_s: for how long `WhenFull.WAIT` waits for room.
        on_undelivered: called with each message that is given up or dropped, from inside the call
            that notices it.

    Attributes:
        dropped: how many messages were dropped or given up without an error.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        options: Options | None = None,
        *,
        when_full: WhenFull | str = WhenFull.WAIT,
        max_wait_s: float = MAX_WAIT_S,
        on_undelivered: Callable[[Undelivered], None] | None = None,
    ) -> None:
        self.dropped = 0
        self._when_full = WhenFull(when_full)
        self._max_wait_s = max_wait_s
        self._on_undelivered = on_undelivered
        self._failed: list[Undelivered] = []
        # What a client that is lost has given back.
        self._returned: deque[Undelivered] = deque()
        self._watch = BrokerWatch()
        self._is_lost = self._is_closing = False
        self._config: dict[str, Any] = {
            **settings.client_config(),
            "enable.idempotence": True,
            "partitioner": PARTITIONER,
            "delivery.report.only.error": True,
            "on_delivery": self._on_delivery,
            "statistics.interval.ms": TOLD_MS,
            "stats_cb": self._hear,
            **(options or {}),
        }
        super().__init__(Producer(self._config))

    def click(self, *, user_id: str, item_id: str, **fields: Any) -> Click:
        """Send that a person looked at an item.

        Args:
            user_id: who.
            item_id: at what.
            fields: others of `Click`; by default a new event_id and the timestamp of now.

        Returns:
            What was sent.

        Raises:
            EventError: a field breaks the contract; nothing was sent.
            DeliveryError: an earlier message was given up, or there is no room for this one.
        """
        return self._send_new(Click, {**fields, "user_id": user_id, "item_id": item_id})

    def purchase(self, *, user_id: str, item_id: str, **fields: Any) -> Purchase:
        """Send that a person bought an item; as `click`."""
        return self._send_new(Purchase, {**fields, "user_id": user_id, "item_id": item_id})

    def impression(
        self, *, user_id: str, recommendation_id: str, position: int, **fields: Any
    ) -> Impression:
        """Send that a person has seen a list up to a place, which counts from 0; as `click`."""
        named = {"user_id": user_id, "recommendation_id": recommendation_id, "position": position}
        return self._send_new(Impression, {**fields, **named})

    def send_interaction(
        self, event_type: str, *, user_id: str, item_id: str, **fields: Any
    ) -> Interaction:
        """Send an event of any type, by the type's name in `EVENT_TYPES`; as `click`."""
        if event_type not in EVENT_TYPES:
            raise EventError("event_type", event_type, f"expected one of {', '.join(EVENT_TYPES)}")
        struct = EVENT_TYPES[event_type].struct
        return self._send_new(struct, {**fields, "user_id": user_id, "item_id": item_id})

    def item(self, item_id: str, **fields: Any) -> Item:
        """Send an item of the catalogue, whole: it replaces what was sent of it before."""
        item = Item(item_id=item_id, **fields)
        self.send(item)
        return item

    def remove_item(self, item_id: str) -> None:
        """Take an item out of the catalogue."""
        _encode_checked(Item(item_id=item_id))
        self.send_raw(ITEMS, item_id, None)

    def send(self, event: Interaction | Item) -> None:
        """Send an event or an item that is made already."""
        raw = _encode_checked(event)
        if isinstance(event, Item):
            self.send_raw(ITEMS, event.item_id, raw)
        else:
            self.send_raw(EVENT_TYPES.spec_of(event).topic, event.user_id, raw)

    def send_raw(self, topic: str, key: str, value: bytes | None) -> None:
        """Send bytes as they are, unchecked: what breaks the contract ends in `dead-letters`."""
        self._raise_failed()
        deadline: float | None = None
        headers = trace_headers()
        while not self._has_queued(topic, key, value, headers):
            deadline = deadline or time.monotonic() + self._max_wait_s
            if self._when_full is not WhenFull.WAIT or time.monotonic() >= deadline:
                self._refuse(Undelivered(topic, key, value, "the local queue is full", headers))
                return
            self._poll(FULL_QUEUE_POLL_S)
            self._raise_failed()
        self._poll(0)

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait until Kafka has all that was sent.

        Raises:
            DeliveryError: messages were given up, or some are still on their way after `timeout_s`.
        """
        waiting = self._drain(timeout_s)
        self._raise_failed()
        if waiting:
            raise DeliveryError(f"{waiting} messages not delivered after {timeout_s:g} s")

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Deliver what is left; what cannot be is given up.

        Raises:
            DeliveryError: with what was given up, unless it is counted or `on_undelivered` has it.
        """
        if self._drain(timeout_s):
            self._is_closing = True
            self._handle.purge()
            self._drain(timeout_s)
            while self._returned:
                self._give_up(self._returned.popleft())
        if self.dropped:
            log.warning("%d messages were not delivered", self.dropped)
        self._raise_failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DeliveryError as undelivered:
            if error is None:
                raise
            error.add_note(str(undelivered))

    def _send_new(self, struct: type[InteractionT], fields: dict[str, Any]) -> InteractionT:
        stamp = {"event_id": str(uuid4()), "timestamp": time.time_ns() // 1_000_000}
        event = struct(**{**stamp, **fields})
        self.send(event)
        return event

    def prepare_fork(self) -> None:
        # Other threads hand in nothing meanwhile, so that an empty queue stays empty.
        if self._drain(FORK_WAIT_S) == 0:
            self._bind(None)

    def begin_in_child(self) -> None:
        super().begin_in_child()
        self._failed.clear()
        self._returned.clear()
        self._is_lost = False
        self.dropped = 0

    @property
    def _own_handle(self) -> Producer | None:
        """What this process is connected by, if it is; a fork in another thread may end it."""
        handle: Producer | None = self._handle
        return None if self.is_inherited else handle

    def _drain(self, timeout_s: float) -> int:
        """Wait for what this process has queued; how many messages are still left."""
        deadline = time.monotonic() + timeout_s
        while True:
            with sending, suppress(BufferError):
                if (handle := self._own_handle) is not None:
                    self._make_well(handle)
            handle, left = self._own_handle, deadline - time.monotonic()
            waiting = 0 if handle is None else handle.flush(max(0.0, min(left, FLUSH_STEP_S)))
            if left <= 0 or not (waiting or self._returned):
                return waiting + len(self._returned)

    def _poll(self, timeout_s: float) -> None:
        if (handle := self._own_handle) is not None:
            handle.poll(timeout_s)

    def _has_queued(self, topic: str, key: str, value: bytes | None, headers: Headers) -> bool:
        """Hand a message to librdkafka; False where its queue is full.

        Raises:
            DeliveryError: it does not take such a message at all.
        """
        try:
            with sending:
                if (handle := self._own_handle) is None:
                    self._bind(handle := Producer(self._config))
                self._make_well(handle).produce(topic, value, key, headers=headers)
        except BufferError:
            return False
        except KafkaException as error:
            refused = Undelivered(topic, key, value, error.args[0].str(), headers)
            raise DeliveryError.from_messages([refused]) from error
        return True

    def _hear(self, statistics: str) -> None:
        self._is_lost = self._is_lost or self._watch.hear(statistics)

    def _make_well(self, handle: Producer) -> Producer:
        """The client, or another in place of one that is lost; with what that one gave back.

        Raises:
            BufferError: its queue has no room for it.
        """
        if self._is_lost:
            log.warning("the client of events had lost its brokers for good: it begins anew")
            handle.purge()
            handle.flush(FLUSH_STEP_S)
            self._is_lost = False
            self._bind(handle := Producer(self._config))
        while self._returned:
            message = self._returned[0]
            handle.produce(message.topic, message.value, message.key, headers=list(message.headers))
            self._returned.popleft()
        return handle

    def _refuse(self, message: Undelivered) -> None:
        if self._when_full is WhenFull.DROP:
            self._give_up(message)
        else:
            raise QueueFullError(
                f"{message.topic}: {message.reason}: Kafka is away, or slower than this app",
                [message],
            )

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            key = (message.key() or b"").decode()
            topic = message.topic() or ""
            told = message.headers() or []
            headers = list(told.items()) if isinstance(told, dict) else told
            undelivered = Undelivered(topic, key, message.value(), error.str(), headers)
            if error.code() in _PURGED and not self._is_closing:
                self._returned.append(undelivered)
            else:
                self._give_up(undelivered)

    def _give_up(self, message: Undelivered) -> None:
        if self._on_undelivered is None and self._when_full is not WhenFull.DROP:
            self._failed.append(message)
            return
        self.dropped += 1
        if self._on_undelivered is not None:
            self._on_undelivered(message)

    def _raise_failed(self) -> None:
        if self._failed:
            # One by one: another thread may add to them meanwhile.
            failed = [self._failed.pop(0) for _ in range(len(self._failed))]
            raise DeliveryError.from_messages(failed)


def _encode_checked(event: Interaction | Item) -> bytes:
    """The event's bytes, if what arrives is what was meant.

    Raises:
        EventError: it breaks the contract.
    """
    kind: type[Any] = type(event)
    try:
        raw = encode(event)
    except (UnicodeEncodeError, OverflowError) as error:
        raise EventError("<message>", str(error), "cannot be written as JSON") from error
    if decode(kind, raw) != event:
        # NaN and infinity, which JSON does not have: written as Python does, they can be named.
        decode(kind, json.dumps(msgspec.to_builtins(event)).encode())
    return raw
