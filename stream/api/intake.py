"""Events and items that come by HTTP: each read by itself, then sent to Kafka and waited for."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from headwater_client import EVENT_TYPES, EventError, Interaction, Item, encode, topics
from headwater_client.contract import MAX_EVENTS
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import ServerError
from headwater_client.events import PersonAttributes, Recommendation
from headwater_client.identities import IdentityMessage, key_of
from headwater_client.kafka import remedy_of
from headwater_client.tracing import trace_headers
from prometheus_client import Counter

from features.events import CountDoubt, EventReader, current_ms
from features.kafka import TOO_LARGE, watched_config
from features.settings import BrokerSettings, EventSettings
from features.signing import Headers

log = structlog.get_logger()
UNDELIVERED = Counter(
    "headwater_api_undelivered_total",
    "Messages of lists that were answered, which Kafka did not get: no rollout counts them",
    ["topic"],
)
_POLL_S = 0.1
_LINGER_MS = 2
# Whose the events of a guest are: the id goes nowhere.
GUEST = "headwater:guest"
_Fields = dict[str, msgspec.Raw]


def read_list(body: bytes) -> list[msgspec.Raw]:
    """The values of a JSON array, as they are written.

    Raises:
        EventError: it is none, or something comes after it.
    """
    try:
        return read_json(body, list[msgspec.Raw])
    except DocumentError as error:
        raise EventError("<message>", body, f"expected a JSON array: {error}") from error


def name_list(name: str, body: bytes) -> bytes:
    """An object with a JSON array in a field of this name, for errors that name what is in it.

    Raises:
        EventError: as `read_list`.
    """
    read_list(body)
    return b'{"%b":%b}' % (name.encode(), body)


def split_events(body: bytes) -> list[bytes]:
    """The events of a request: its array's, or the one that it is.

    Raises:
        EventError: it is no JSON, or an array of too many.
    """
    if body.lstrip()[:1] != b"[":
        return [body]
    events = read_list(body)
    if not 0 < len(events) <= MAX_EVENTS:
        raise EventError("<message>", len(events), f"events: expected 1 to {MAX_EVENTS}")
    return [bytes(raw) for raw in events]


class EventIntake:
    """Reads events as the worker will read them from Kafka, so that none is refused later.

    What an app need not know is filled in: a new `event_id`, `timestamp` now, and where the request
    names a person, `user_id`.

    Args:
        settings: whose events count, and what becomes of one of a wrong clock.
        count: told of each event whose time is in doubt.
        clock: milliseconds UTC.
    """

    def __init__(
        self,
        settings: EventSettings,
        count: CountDoubt | None = None,
        clock: Callable[[], int] = current_ms,
    ) -> None:
        self._reader = EventReader(settings, count, clock)
        self._clock = clock

    def check_person(self, person: str, field: str) -> None:
        """As `EventReader.check_person`."""
        self._reader.check_person(person, field)

    def read(self, raw: bytes, person: str | None = None, ago_ms: int = 0) -> Interaction:
        """One event.

        Args:
            raw: JSON, with the `type` of the event besides the fields of its topic.
            ago_ms: how long before now it happened, where it does not say when: of several that
                came together each is later than the one before it.
            person: whose events the request is about; None: anybody's; `GUEST`: of somebody whose
                id goes nowhere.

        Raises:
            EventError: it breaks the contract; or it is another person's.
        """
        fields = read_fields(raw)
        name = _read_text(fields, "type")
        if name not in EVENT_TYPES:
            raise EventError("type", name, f"expected one of {', '.join(EVENT_TYPES)}")
        now_ms = self._clock()
        known = {"event_id": uuid4().hex, "timestamp": now_ms - ago_ms}
        if person is not None:
            known["user_id"] = person
        missing = {field: value for field, value in known.items() if field not in fields}
        whole = encode({**fields, **missing}) if missing else raw
        event = self._reader.read(EVENT_TYPES[name].topic, whole, now_ms)
        if person not in (None, GUEST, event.user_id):
            raise EventError("user_id", event.user_id, "expected the person of the request")
        return event


def read_fields(raw: bytes) -> _Fields:
    """The fields of a JSON object, each as it is written.

    Raises:
        EventError: it is none.
    """
    try:
        return read_json(raw, _Fields)
    except DocumentError as error:
        raise EventError("<event>", raw, f"expected a JSON object: {error}") from error


def _read_text(fields: _Fields, name: str) -> str:
    if name not in fields:
        known = ", ".join(EVENT_TYPES)
        raise EventError(name, "<missing>", f"is required: expected one of {known}")
    try:
        return read_json(bytes(fields[name]), str)
    except DocumentError as error:
        raise EventError(name, bytes(fields[name]), f"expected a text: {error}") from error


class TopicMessage(NamedTuple):
    """A message for a topic; without a value, of what is no longer there."""

    topic: str
    key: str
    value: bytes | None
    headers: Headers = ()


class Delivered(NamedTuple):
    """What became of a message: why Kafka does not have it, "" where it has; where it stands."""

    problem: str
    partition: int = -1
    offset: int = -1
    is_too_large: bool = False


def event_message(event: Interaction) -> TopicMessage:
    """An event as it is sent: to its person's partition."""
    return TopicMessage(EVENT_TYPES.spec_of(event).topic, event.user_id, encode(event))


def attributes_message(person: PersonAttributes) -> TopicMessage:
    """What is known of a person, as it is sent: to their partition."""
    return TopicMessage(topics.PEOPLE, person.user_id, encode(person))


def identity_message(message: IdentityMessage) -> TopicMessage:
    """Who has become whom, or is to be forgotten, as it is sent: to that person's partition."""
    return TopicMessage(topics.IDENTITIES, key_of(message), encode(message))


def item_message(item: Item) -> TopicMessage:
    """An item as it is sent."""
    return TopicMessage(topics.ITEMS, item.item_id, encode(item))


def removal_message(item_id: str) -> TopicMessage:
    """What takes an item out of the catalogue."""
    return TopicMessage(topics.ITEMS, item_id, None)


def served_message(served: Recommendation) -> TopicMessage:
    """A list that was answered, as it is sent: to the partition of its person's events."""
    return TopicMessage(topics.SERVED, served.user_id, encode(served))


class EventPublisher:
    """Sends messages, and says of each whether Kafka has it on all in-sync replicas.

    Args:
        settings: where Kafka is.
        within_s: a message that is not acknowledged by then is given up, and not sent later.
    """

    def __init__(self, settings: BrokerSettings, within_s: float) -> None:
        self._within_s = within_s
        self._settings = settings
        self._producer = self._make()
        self._ended = threading.Event()
        self._polling = threading.Thread(target=self._poll, name="api-deliveries", daemon=True)
        self._polling.start()

    def _make(self) -> Producer:
        return Producer(
            watched_config(self._settings)
            | {
                # As the worker's producer, and not idempotent for the same reason: an event that is
                # sent twice has the same event_id, and counts once.
                "acks": "all",
                "partitioner": topics.PARTITIONER,
                "linger.ms": str(_LINGER_MS),
                "message.max.bytes": str(topics.MAX_MESSAGE_BYTES),
                "message.timeout.ms": str(int(1000 * self._within_s)),
                "log_level": "0",
            }
        )

    async def publish(self, messages: Sequence[TopicMessage]) -> list[Delivered]:
        """Send messages, and wait until each is acknowledged or given up."""
        if not messages:
            return []
        delivery = _Delivery(len(messages), asyncio.get_running_loop())
        traced = trace_headers()
        for place, (topic, key, value, headers) in enumerate(messages):
            told = partial(delivery.report, place)
            own = [*headers, *traced]
            try:
                self._producer.produce(topic, value, key, headers=own, on_delivery=told)
            except BufferError:
                full = "the queue is full: Kafka is away, or slower than this"
                delivery.settle(place, Delivered(full))
            except KafkaException as error:
                delivery.settle(place, _explain(error.args[0]))
        return await delivery.wait()

    def send(self, message: TopicMessage) -> None:
        """Send a message that nobody waits for; one that Kafka does not get is counted."""
        try:
            self._producer.produce(
                message.topic, message.value, message.key, on_delivery=_count_undelivered
            )
        except (BufferError, KafkaException):
            UNDELIVERED.labels(message.topic).inc()

    def close(self) -> None:
        """Deliver what is left, for as long as a message may take."""
        self._producer.flush(self._within_s)
        self._ended.set()
        self._polling.join()

    def _poll(self) -> None:
        while not self._ended.is_set():
            try:
                self._producer.poll(_POLL_S)
            except ServerError as error:
                log.warning("producer_lost", reason=str(error))
                lost, self._producer = self._producer, self._make()
                # Whoever waits for it is told to send again.
                lost.purge()
                lost.poll(0)


def _count_undelivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        UNDELIVERED.labels(message.topic() or "").inc()


class _Delivery:
    """What becomes of messages that were sent together; told by librdkafka in another thread."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._delivered = [Delivered("")] * number
        self._left = number
        self._turn = threading.Lock()
        self._loop = loop
        self._done = loop.create_future()

    async def wait(self) -> list[Delivered]:
        await self._done
        return self._delivered

    def report(self, place: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.settle(place, _explain(error))
            return
        partition, offset = message.partition(), message.offset()
        self.settle(place, Delivered("", -1 if partition is None else partition, offset or 0))

    def settle(self, place: int, delivered: Delivered) -> None:
        with self._turn:
            self._delivered[place] = delivered
            self._left -= 1
            is_last = not self._left
        if is_last:
            # The loop may have ended: then nobody waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


def _explain(error: KafkaError) -> Delivered:
    remedy = remedy_of(error)
    problem = f"Kafka: {error.str()}{remedy and f': {remedy}'}"
    return Delivered(problem, is_too_large=error.code() in TOO_LARGE)
