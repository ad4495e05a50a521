"""For apps: send what people do, receive what to recommend to them.

>>> from features.settings import KafkaSettings
>>> from stream.client import EventProducer, RecommendationConsumer
>>> kafka = KafkaSettings(bootstrap_servers="localhost:9092")
>>> def example() -> None:
...     with RecommendationConsumer(kafka) as answers, EventProducer(kafka) as events:
...         events.item("lamp-7", title="Desk lamp", category=["lighting"], price=29.0)
...         events.click(user_id="ann", item_id="lamp-7")
...         for recommendation in answers:
...             print(recommendation.user_id, [item.item_id for item in recommendation.items])
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import (
    Click,
    EventError,
    Interaction,
    Item,
    Purchase,
    Recommendation,
    decode,
    encode,
)
from headwater_client.topics import ITEMS, PARTITIONER, RECOMMENDATIONS

from features.kafka import client_config, unreachable
from features.settings import KafkaSettings

CLOSE_TIMEOUT_S = 30.0
FULL_QUEUE_POLL_S = 0.05
WAIT_S = 0.5
ANSWER_S = 15.0
FETCH_WAIT_MS = 20

Options = Mapping[str, str | int | bool]


@dataclass(frozen=True)
class Undelivered:
    """One message that Kafka did not take, whole, so that it can be sent again."""

    topic: str
    key: str
    value: bytes | None
    reason: str


class DeliveryError(ServerError):
    """Kafka did not take some messages; `undelivered` has those that were given up."""

    def __init__(self, what: str, undelivered: list[Undelivered]) -> None:
        super().__init__(what)
        self.undelivered = undelivered


class EventProducer:
    """Sends events and items; each is checked by the event contract before it leaves.

    Guarantees:

    - What was accepted reaches Kafka once, however often the producer has to try (idempotence).
    - Messages of one person keep their order.
    - A message that is given up (after librdkafka's `message.timeout.ms`, five minutes by default)
      raises `DeliveryError` from the next call, at the latest from `close`.
    - Leaving the `with` block waits for all that was sent.
    - An event that the app sends again with the same event_id counts once.

    Make one when the app starts and keep it: its first message takes half a second, the others less
    than a millisecond.

    Args:
        settings: where Kafka is.
        options: more of librdkafka's configuration (`linger.ms`, `compression.type`).
    """

    def __init__(self, settings: KafkaSettings, options: Options | None = None) -> None:
        self._failed: list[Undelivered] = []
        config: dict[str, Any] = {
            **client_config(settings),
            "enable.idempotence": True,
            "partitioner": PARTITIONER,
            "delivery.report.only.error": True,
            "on_delivery": self._on_failure,
            **(options or {}),
        }
        self._producer = Producer(config)

    def click(self, *, user_id: str, item_id: str, **known: Any) -> Click:
        """Send that a person looked at an item.

        Args:
            user_id: who.
            item_id: at what.
            known: other fields of `Click`; by default a new event_id and the timestamp of now.

        Returns:
            What was sent.

        Raises:
            EventError: a field breaks the contract; nothing was sent.
            DeliveryError: an earlier message was given up.
        """
        click = Click(**_stamped(known), user_id=user_id, item_id=item_id)
        self.send(click)
        return click

    def purchase(self, *, user_id: str, item_id: str, **known: Any) -> Purchase:
        """Send that a person bought an item; as `click`."""
        purchase = Purchase(**_stamped(known), user_id=user_id, item_id=item_id)
        self.send(purchase)
        return purchase

    def item(self, item_id: str, **known: Any) -> Item:
        """Send an item of the catalogue, whole: it replaces what was sent of it before."""
        item = Item(item_id=item_id, **known)
        self.send(item)
        return item

    def remove_item(self, item_id: str) -> None:
        """Take an item out of the catalogue."""
        _checked(Item(item_id=item_id))
        self.send_raw(ITEMS, item_id, None)

    def send(self, event: Interaction | Item) -> None:
        """Send an event or an item that is made already."""
        raw = _checked(event)
        if isinstance(event, Item):
            self.send_raw(ITEMS, event.item_id, raw)
        else:
            self.send_raw(EVENT_TYPES.of_event(event).topic, event.user_id, raw)

    def send_raw(self, topic: str, key: str, value: bytes | None) -> None:
        """Send bytes as they are, unchecked: what breaks the contract ends in `dead-letters`.

        Where the local queue is full, waits until Kafka has taken some of it.
        """
        self._raise_failed()
        while True:
            try:
                self._producer.produce(topic, value, key)
                break
            except BufferError:
                self._producer.poll(FULL_QUEUE_POLL_S)
                self._raise_failed()
            except KafkaException as error:
                raise _refused(Undelivered(topic, key, value, error.args[0].str())) from error
        self._producer.poll(0)

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait until Kafka has all that was sent.

        Raises:
            DeliveryError: messages were given up, or some are still on their way after `timeout_s`.
        """
        waiting = self._producer.flush(timeout_s)
        self._raise_failed()
        if waiting:
            raise DeliveryError(f"{waiting} messages not delivered after {timeout_s:g} s", [])

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Deliver what is left; what cannot be is given up and raised."""
        self._producer.flush(timeout_s)
        self._producer.purge()
        self._producer.flush(timeout_s)
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

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            key = (message.key() or b"").decode()
            self._failed.append(
                Undelivered(message.topic() or "", key, message.value(), error.str())
            )

    def _raise_failed(self) -> None:
        if self._failed:
            failed, self._failed[:] = self._failed[:], []
            raise _refused(*failed)


class RecommendationConsumer:
    """Receives recommendations.

    With a `group`, the members of the group share the people among them, and a recommendation is
    done when the next one is asked for: after a crash it comes again (at least once), with the same
    recommendation_id. A new group begins with what is made from now on.

    Without a group, all people's recommendations from now on: from the moment that the constructor
    returns, nothing is missed. Nothing is remembered after.

    Args:
        settings: where Kafka is.
        group: name of the consumer group.
        timeout_s: iterating ends after so long without a recommendation; default: never.
        options: more of librdkafka's configuration.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        group: str | None = None,
        timeout_s: float | None = None,
        options: Options | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._group = group
        self._done: Message | None = None
        self._decoder = msgspec.json.Decoder(Recommendation)
        self._consumer = Consumer(
            {
                **client_config(settings),
                "group.id": group or f"headwater-client-{uuid4()}",
                "auto.offset.reset": "latest",
                # A fetch that is parked at the broker holds up what arrives meanwhile for
                # partitions that it left out: by default for half a second.
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "enable.auto.commit": group is not None,
                "enable.auto.offset.store": False,
                **(options or {}),
            }
        )
        if group:
            self._consumer.subscribe([RECOMMENDATIONS])
        else:
            self._consumer.assign(self._ends())

    def receive(self, timeout_s: float) -> Recommendation | None:
        """The next recommendation; None if there is none for so long.

        Raises:
            ServerError: Kafka cannot be read.
            EventError: a message on the topic is not a recommendation; the next call goes on.
        """
        self._finish()
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        if (error := message.error()) is not None:
            raise ServerError(f"Kafka: {RECOMMENDATIONS}: {error.str()}")
        self._done = message
        return self._decoded(message.value() or b"")

    def __iter__(self) -> Iterator[Recommendation]:
        quiet_since = time.monotonic()
        while self._timeout_s is None or time.monotonic() - quiet_since < self._timeout_s:
            # In short waits, between which Ctrl-C is heard.
            recommendation = self.receive(min(WAIT_S, self._timeout_s or WAIT_S))
            if recommendation is not None:
                yield recommendation
                quiet_since = time.monotonic()

    def close(self) -> None:
        """Leave the group; its offsets are committed up to the recommendation before the last."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self) -> None:
        if self._group and self._done is not None:
            # Refused where the partition has gone to another member, which gets it again.
            with suppress(KafkaException):
                self._consumer.store_offsets(message=self._done)
        self._done = None

    def _decoded(self, raw: bytes) -> Recommendation:
        try:
            return self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EventError("<message>", raw[:80], str(error)) from error

    def _ends(self) -> list[TopicPartition]:
        """Where each partition ends now."""
        try:
            topic = self._consumer.list_topics(RECOMMENDATIONS, ANSWER_S).topics[RECOMMENDATIONS]
            if topic.error is not None:
                raise ServerError(f"Kafka: {RECOMMENDATIONS}: {topic.error.str()}")
            partitions = [TopicPartition(RECOMMENDATIONS, number) for number in topic.partitions]
            for partition in partitions:
                partition.offset = self._consumer.get_watermark_offsets(partition, ANSWER_S)[1]
        except KafkaException as error:
            self._consumer.close()
            raise unreachable(error) from error
        return partitions


def _stamped(known: Mapping[str, Any]) -> dict[str, Any]:
    return {"event_id": str(uuid4()), "timestamp": time.time_ns() // 1_000_000, **known}


def _checked(event: Interaction | Item) -> bytes:
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


def _refused(*undelivered: Undelivered) -> DeliveryError:
    first = undelivered[0]
    others = f" (and {len(undelivered) - 1} more)" if len(undelivered) > 1 else ""
    return DeliveryError(
        f"Kafka did not take a message for {first.topic}: {first.reason}{others}",
        list(undelivered),
    )
