"""Batches whose answers are under way: none waits longer for another than it must.

The next batch waits for what the stable version answers, because a batch is what arrived meanwhile.
A version on trial (a canary or its baseline) may lag one batch; if it lags more, it is waited for,
but not long: one that is as fast as the stable version catches up, and one that is not holds nobody
up. Shadows are never waited for. So several batches can be open at once. A user's answers keep
their order, and batches are done in theirs.

At least once: what a worker produces is sent, and what is whole, delivered and on disk is
committed.

Recommendations and dead letters are sent by confluent-kafka: Faust's own producer costs a hundred
times as much an event. Its acknowledgements are off: its commits can pass an event that is still
open (`Consumer._new_offset` is off by one), and they know nothing of the store's disk.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from faust import App
from faust.types import TP, EventT
from faust.types import Message as FaustMessage
from headwater_client import DeadLetter, EventError, ServerError
from headwater_client.documents import read_json
from headwater_client.events import Recommendation, Shadow, encode
from headwater_client.identities import HandOver, IdentityMessage, SentOn, key_of
from headwater_client.kafka import remedy_of
from headwater_client.topics import (
    DEAD_LETTERS,
    IDENTITIES,
    MAX_MESSAGE_BYTES,
    PARTITIONER,
    RECOMMENDATIONS,
)
from headwater_client.tracing import Headers
from prometheus_client import REGISTRY

from features.kafka import TOO_LARGE, watched_config
from features.metrics import LogThrottle
from features.positions import PositionKeeper
from features.settings import BrokerSettings
from features.store import RowStore
from stream import metrics
from stream.failures import critical_task, retry_while_unavailable
from stream.faust_internals import assigned_partitions, commit_offsets, count_waiting
from stream.recommendations import make_recommendations, make_shadows
from stream.recommender import Recommender
from stream.tracing import trace_answer, trace_part
from stream.version_calls import InferenceCall, VersionCall

log = structlog.get_logger()
_POLL_S = 0.01
_LINGER_MS = 5
_DURABLE_MS = 5_000
# What a letter holds beside the raw bytes, at most: the reason, the topic's name, a hash.
_LETTER_BYTES = 8_192
# A message so large may be more than its topic takes: 1 MiB by Kafka's default.
_LARGE_BYTES = 500_000

_Settle = Callable[[KafkaError | None, Message | None], None]


class _Outgoing(NamedTuple):
    """A message as it is handed to the producer."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers | None = None


class _Epoch:
    """The messages between two flushes: how many of them are not settled.

    They share one callback: one for each message, and garbage collection over all that are under
    way, costs three times as much as sending.
    """

    def __init__(self, on_failure: Callable[[KafkaError, str], None]) -> None:
        self.open = 0
        self._on_failure = on_failure

    def settle(self, error: KafkaError | None, message: Message | None) -> None:
        """Note that a message is delivered, or given up."""
        self.open -= 1
        if error is not None:
            self._on_failure(error, (message.topic() or "") if message is not None else "")


class _Attempt(NamedTuple):
    """A message of several forms that is not settled; the first of them is being tried."""

    epoch: _Epoch
    forms: Sequence[_Outgoing]
    on_failure: Callable[[KafkaError], None]


def _list_forms(message: IdentityMessage) -> list[IdentityMessage]:
    """A message, and what it is without what it can do without."""
    if isinstance(message, HandOver):
        row = {name: value for name, value in message.row.items() if name != "taken"}
        return [message, msgspec.structs.replace(message, row=row)]
    if isinstance(message, SentOn) and len(message.event) > _LARGE_BYTES:
        fields = read_json(bytes(message.event), dict[str, msgspec.Raw])
        event = msgspec.Raw(encode({n: v for n, v in fields.items() if n != "context"}))
        return [message, msgspec.structs.replace(message, event=event)]
    return [message]


def make_dead_letter(message: Any, reason: str) -> DeadLetter:
    """The letter of a message, with as many of its raw bytes as fit the dead-letter topic."""
    raw = message.value or b""
    room = MAX_MESSAGE_BYTES - len(message.key or b"") - _LETTER_BYTES
    return DeadLetter(
        # Base64 makes four bytes of three.
        raw=raw[: max(0, room // 4 * 3)],
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        reason=reason,
        refused_time=int(time.time() * 1000),
        size_bytes=len(raw),
        sha256=sha256(raw).hexdigest(),
    )


class RecommendationProducer:
    """A producer that can say when all that was sent is delivered, at least once."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._producer = Producer(
            watched_config(settings)
            | {
                # Not idempotent: with five requests in flight, one a partition, librdkafka's thread
                # asks for their end without pause, and Kafka gets no turn where cores are few. A
                # recommendation that is sent again has the same id anyway.
                "acks": "all",
                "partitioner": PARTITIONER,
                "linger.ms": str(_LINGER_MS),
                "message.max.bytes": str(MAX_MESSAGE_BYTES),
                # A broker that is away is waited for: what was read is not committed meanwhile.
                "message.timeout.ms": "0",
                # One that refuses this login, from now on, is not.
                "error_cb": self._on_error,
            }
        )
        self._failed: deque[KafkaError] = deque()
        self._epochs = [_Epoch(self._give_up)]
        self._too_large: deque[_Attempt] = deque()
        self._refused = LogThrottle()

    async def send_answer(self, answer: Recommendation, headers: Headers | None = None) -> None:
        """Hand a recommendation over; waits only while the producer's queue is full.

        One that its topic does not take goes without what was asked: the context may be large.
        """
        key, value = answer.user_id.encode(), encode(answer)
        if len(value) > _LARGE_BYTES:
            smaller = encode(msgspec.structs.replace(answer, asked=None))
            forms = [
                _Outgoing(RECOMMENDATIONS, key, value, headers),
                _Outgoing(RECOMMENDATIONS, key, smaller, headers),
            ]
            await self._send(forms, partial(self._give_up, topic=RECOMMENDATIONS))
            return
        epoch = self._epochs[-1]
        epoch.open += 1
        await self._produce(_Outgoing(RECOMMENDATIONS, key, value, headers), epoch.settle)

    async def send_identities(self, messages: Iterable[IdentityMessage]) -> None:
        """Hand over what is said of people's rows.

        A row that is larger than the topic takes goes without the items that its person has seen,
        and an event that is sent on without its context.
        """
        for message in messages:
            key = key_of(message).encode()
            await self._send(
                [_Outgoing(IDENTITIES, key, encode(form)) for form in _list_forms(message)],
                partial(self._give_up, topic=IDENTITIES),
            )

    def _give_up(self, error: KafkaError, topic: str) -> None:
        """Note that Kafka has not got a message: it ends the worker, who would send it again.

        Not where the topic takes it in none of its forms: whoever comes next would end, too.
        """
        if error.code() not in TOO_LARGE:
            self._failed.append(error)
            return
        metrics.MESSAGES_LOST.labels(topic).inc()
        log.error(
            "message_lost",
            topic=topic,
            reason=error.str(),
            remedy="give the topic a larger max.message.bytes",
        )

    async def send_to_dead_letter(self, event: EventT[bytes], error: EventError) -> None:
        """Keep a message in the dead-letter topic, with the reason why it was refused.

        Where that is too large for the broker it goes without its raw bytes and its key. A topic
        that takes not even this is no reason to stop: the letter is lost, which is logged.
        """
        message = event.message
        letter = make_dead_letter(message, str(error))
        place = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}

        def lose(failure: KafkaError) -> None:
            if failure.code() not in TOO_LARGE:
                self._failed.append(failure)
                return
            metrics.DEAD_LETTERS_LOST.labels(letter.topic).inc()
            log.error("dead_letter_lost", **place, reason=letter.reason, sha256=letter.sha256)

        smaller = msgspec.structs.replace(letter, raw=b"")
        forms = [
            _Outgoing(DEAD_LETTERS, message.key, encode(letter)),
            _Outgoing(DEAD_LETTERS, None, encode(smaller)),
        ]
        await self._send(forms, lose)
        metrics.DEAD_LETTERS.labels(letter.topic).inc()
        if refused := self._refused.count():
            log.warning("event_refused", **place, field=error.field, refused=refused)

    async def _send(
        self, forms: Sequence[_Outgoing], on_failure: Callable[[KafkaError], None]
    ) -> None:
        """Send a message in the first of its forms that the broker does not find too large."""
        epoch = self._epochs[-1]
        epoch.open += 1
        await self._try(_Attempt(epoch, forms, on_failure))

    async def _try(self, attempt: _Attempt) -> None:
        def settle(error: KafkaError | None, message: Message | None) -> None:
            if error is not None and error.code() in TOO_LARGE and len(attempt.forms) > 1:
                self._too_large.append(attempt)
                return
            attempt.epoch.settle(None, message)
            if error is not None:
                attempt.on_failure(error)

        await self._produce(attempt.forms[0], settle)

    async def _produce(self, outgoing: _Outgoing, settle: _Settle) -> None:
        topic, key, value, headers = outgoing
        while True:
            try:
                self._producer.produce(
                    topic, value, key, on_delivery=settle, headers=headers or None
                )
                return
            except BufferError:
                await self._poll()
            except KafkaException as error:
                settle(error.args[0], None)
                return

    async def flush(self) -> None:
        """Wait until everything sent before this call is delivered.

        Raises:
            ServerError: a message cannot be delivered; what led to it must not be committed.
        """
        before = list(self._epochs)
        self._epochs.append(_Epoch(self._give_up))
        while any(epoch.open for epoch in before):
            await self._poll()
        self._epochs[:-1] = [epoch for epoch in self._epochs[:-1] if epoch.open]
        self._raise_failure()

    def serve(self) -> None:
        """Take what the producer tells of itself, though nothing is sent.

        Raises:
            ServerError: it has lost Kafka, or Kafka refuses it.
        """
        self._producer.poll(0)
        self._raise_failure()

    async def _poll(self) -> None:
        if not self._producer.poll(0) and not self._too_large:
            await asyncio.sleep(_POLL_S)
        self._raise_failure()
        while self._too_large:
            attempt = self._too_large.popleft()
            await self._try(attempt._replace(forms=attempt.forms[1:]))

    def _on_error(self, error: KafkaError) -> None:
        if remedy_of(error):
            self._failed.append(error)

    def _raise_failure(self) -> None:
        if self._failed:
            error = self._failed[0]
            remedy = remedy_of(error)
            raise ServerError(
                f"Kafka does not take a message: {error.str()}{remedy and f': {remedy}'}"
            )


class Commits:
    """Remembers how far each partition is done, and commits that every `interval_s`.

    Args:
        positions: told, with each commit, how far the rows of `store` are.
    """

    def __init__(
        self,
        app: App,
        store: RowStore,
        producer: RecommendationProducer,
        positions: PositionKeeper,
        interval_s: float,
    ) -> None:
        self._app = app
        self._store = store
        self._producer = producer
        self._positions = positions
        self._interval_s = interval_s
        self._done: dict[TP, FaustMessage] = {}

    def mark_done(self, events: Iterable[EventT[bytes]]) -> None:
        """A batch is whole: its rows are written, its answers sent."""
        for event in events:
            self._done[event.message.tp] = event.message

    async def run(self) -> None:
        """Commit for ever.

        Raises:
            ServerError: a message cannot be delivered, or the store was restarted: what was read
                since the last commit has to be read again.
        """
        lag = metrics.LagCollector(partial(count_waiting, self._app))
        REGISTRY.register(lag)
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                self._producer.serve()
                await self.commit()
        finally:
            REGISTRY.unregister(lag)

    async def commit(self) -> None:
        """Commit what is done by now, once it is delivered and on disk."""
        if not self._done:
            return
        done, self._done = self._done, {}
        # What others have been given since is read again from the offset that was committed.
        here = assigned_partitions(self._app)
        done = {partition: last for partition, last in done.items() if partition in here}
        await self._producer.flush()
        told = {
            (topic, partition): (
                last.offset + 1,
                -1 if last.timestamp is None else round(last.timestamp * 1000),
            )
            for (topic, partition), last in done.items()
        }
        async for attempt in retry_while_unavailable():
            with attempt:
                await self._positions.move(told)
                while not await self._store.wait_until_durable(_DURABLE_MS):
                    log.warning("store_slow_to_disk", waited_ms=_DURABLE_MS)
        # What is read again moves the store's positions only: of a group that was set back a crash
        # would let all be answered again.
        answered = self._positions.answered
        offsets = {
            partition: last.offset + 1
            for partition, last in done.items()
            if last.offset + 1 >= answered.get((partition.topic, partition.partition), 0)
        }
        if offsets and not await commit_offsets(self._app, offsets):
            log.warning("commit_refused", partitions=len(offsets))
            self._done = done | self._done
            return
        for partition, offset in offsets.items():
            metrics.COMMITTED_OFFSET.labels(partition.topic, partition.partition).set(offset)


# How long a batch waits for a version on trial that lags behind.
_CATCH_UP_S = 0.05
# Where Kafka takes nothing, batches wait here and not in memory without end.
_MAX_OPEN_BATCHES = 64


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure the wall time of a stage, and tell of it in the batch's trace."""
    with trace_part(name), metrics.STAGE_SECONDS.labels(name).time():
        yield


@dataclass(eq=False, slots=True)
class _OpenCall:
    """A call that is not delivered yet.

    Attributes:
        answered: the answer is there, its shadow perhaps not.
        task: ends when the answer is delivered.
    """

    call: InferenceCall
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    user_ids: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.user_ids = {request.user_id for request in self.call.requests}


@dataclass(eq=False, slots=True)
class _OpenBatch:
    """Messages, and those of their calls that are not delivered yet."""

    events: Sequence[EventT[bytes]]
    calls: list[_OpenCall]


class Pipeline:
    """Executes the calls of batches, delivers the answers, and says which batches are done."""

    def __init__(
        self, recommender: Recommender, producer: RecommendationProducer, commits: Commits
    ) -> None:
        self._recommender = recommender
        self._producer = producer
        self._commits = commits
        self._open: deque[_OpenBatch] = deque()
        self._awaited: list[_OpenCall] = []

    async def start(self, calls: Sequence[InferenceCall], events: Sequence[EventT[bytes]]) -> None:
        """Begin to answer a batch, once the stable version has answered the one before."""
        for call in self._awaited:
            await call.answered.wait()
        await self._let_catch_up()
        while len(self._open) >= _MAX_OPEN_BATCHES:
            await _join(self._open[0].calls[:1])
        before = [call for batch in self._open for call in batch.calls]
        batch = _OpenBatch(events, [_OpenCall(call) for call in calls])
        self._open.append(batch)
        self._awaited = [call for call in batch.calls if not call.call.on_trial]
        for call in batch.calls:
            earlier = [other for other in before if not call.user_ids.isdisjoint(other.user_ids)]
            work = partial(self._answer, batch, call, earlier)
            call.task = asyncio.create_task(critical_task(work)())
        self._finish_batches()

    async def send_on(self, messages: Iterable[IdentityMessage]) -> None:
        """Hand over what a batch leads to besides answers, before it is begun."""
        await self._producer.send_identities(messages)

    async def drain(self) -> None:
        """Wait until every batch that was begun is done."""
        while self._open:
            await _join(self._open[0].calls[:1])

    async def _let_catch_up(self) -> None:
        """Wait a little for a version on trial that is more than a batch behind."""
        earlier = list(self._open)[:-1]
        behind = [call for batch in earlier for call in batch.calls if not call.answered.is_set()]
        if behind:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_S):
                    for call in behind:
                        await call.answered.wait()

    async def _answer(
        self, batch: _OpenBatch, open_call: _OpenCall, earlier: Sequence[_OpenCall]
    ) -> None:
        call = open_call.call
        shadows = asyncio.create_task(self._shadows(call.shadow)) if call.shadow else None
        answers = await self._recommendations(call)
        open_call.answered.set()
        if shadows:
            answers = _with_shadows(answers, await shadows)
        await _join(earlier)
        with stage("deliver"):
            for request, answer in zip(call.requests, answers, strict=True):
                headers = trace_answer(request.sender, request.arrived_ms, answer)
                await self._producer.send_answer(answer, headers)
            metrics.count_recommendations(answers)
            metrics.observe_answers(request.arrived_ms for request in call.requests)
        batch.calls.remove(open_call)
        self._finish_batches()

    async def _recommendations(self, call: InferenceCall) -> list[Recommendation]:
        with stage("answer"):
            async for attempt in retry_while_unavailable():
                with attempt:
                    ranked = await self._recommender.execute(call)
            return make_recommendations(call.requests, ranked)

    async def _shadows(self, call: VersionCall) -> list[Shadow]:
        async for attempt in retry_while_unavailable():
            with attempt:
                ranked = await self._recommender.execute_shadow(call)
        return make_shadows(ranked)

    def _finish_batches(self) -> None:
        """Batches that are whole are done, in their order."""
        while self._open and not self._open[0].calls:
            self._commits.mark_done(self._open.popleft().events)


async def _join(calls: Sequence[_OpenCall]) -> None:
    for call in calls:
        if call.task:
            await call.task


def _with_shadows(
    answers: Sequence[Recommendation], shadows: Sequence[Shadow]
) -> list[Recommendation]:
    return [
        msgspec.structs.replace(answer, shadow=shadow)
        for answer, shadow in zip(answers, shadows, strict=True)
    ]
