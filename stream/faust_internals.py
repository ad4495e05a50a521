"""Every touch of what Faust keeps to itself: how it fetches, hands over and commits messages.

Faust is used for membership and consumption only, and six things of that are not among its
settings. They are reached here by names that neither Faust nor aiokafka promises to keep: therefore
pyproject.toml pins faust-streaming==0.15.3 and aiokafka 0.14. With other versions this file and
fetches.py are the ones to check.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.protocol.group import JoinGroupRequest
from faust import App, Service, Stream, Worker
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ChannelT, EventT
from headwater_client.errors import ServerError
from mode.utils.queues import ThrowableQueue

from stream.fetches import BUSY_MIN_BYTES, BUSY_WAIT_MS, FetchSender

WATCH_S = 1.0


FindStarts = Callable[[Mapping[TP, int | None]], Awaitable[Mapping[TP, int]]]
"""Where to go on reading each partition of an assignment, given what the group has committed."""


def _replace(owner: AIOKafkaConsumer | AIOKafkaClient, name: str, value: object) -> None:
    """Set what it has; under another name it would do nothing, and say nothing."""
    if not hasattr(owner, name):
        raise AttributeError(f"{type(owner).__name__} has no {name} any more: look at this file")
    setattr(owner, name, value)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def check(self) -> None:
        """Raise what has ended aiokafka's own tasks: it waits for somebody to ask.

        Raises:
            KafkaError: nothing is read any more, and nothing will be.
        """
        # Made when the consumer starts.
        if self._consumer is None or self._consumer._coordinator is None:  # noqa: SLF001
            return
        fetching = self._consumer._fetcher.error_future  # noqa: SLF001
        with suppress(asyncio.CancelledError):
            self._consumer._coordinator.check_errors()  # noqa: SLF001
            if fetching.done():
                fetching.result()

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Of partitions that have gone meanwhile nothing is left, which aiokafka takes for a fault.
        if self.assignment().isdisjoint(offsets):
            return False
        return await super()._commit(offsets)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust passes neither on, and aiokafka has no setters; read anew at the consumer's start.
        _replace(consumer, "_fetch_max_wait_ms", BUSY_WAIT_MS)
        _replace(consumer, "_fetch_min_bytes", BUSY_MIN_BYTES)
        # What a producer took back counts nowhere: neither here nor in windows or feedback, which
        # read so by librdkafka's default. Faust asks for it only where it writes transactions.
        _replace(consumer, "_isolation_level", "read_committed")
        # By range, one worker gets the same partition of every topic of interactions, and so all
        # events of a user. Faust's own choice without tables is round robin.
        name = f"range-{cast('_Transport', transport).fingerprint}"
        assignor = type("LogRangeAssignor", (RangePartitionAssignor,), {"name": name})
        _replace(consumer, "_partition_assignment_strategy", (assignor,))
        send = FetchSender(consumer._client.send, partial(_is_held, consumer))  # noqa: SLF001
        _replace(consumer._client, "send", _JoinByTwoNames(send, name))  # noqa: SLF001
        return consumer


def _is_held(consumer: AIOKafkaConsumer) -> bool:
    """Whether partitions are paused, or have messages that Faust has not taken yet."""
    return bool(consumer._fetcher._records) or bool(consumer.paused())  # noqa: SLF001


class _JoinByTwoNames:
    """Lets a worker join its group under the name of its log, and under the plain one.

    A worker that comes back in time gets the assignment that it had (KIP-345), unless the group has
    no protocol of that name any more. Where a topic was missing when the group was divided, that
    assignment has none of it: nobody would ever read what was made anew. So range has another name
    for each log. Workers that know another log, or are of a release that knows no such names, meet
    under the plain one.

    Given two assignors, aiokafka asks to join twice, the first time with one name alone (aiokafka
    #1168). Each time undoes the assignment that the time before brought: two workers who begin
    together can do so to each other for ever. And a group that has the plain name alone refuses the
    first. So it has one assignor, and the other name is put into what it sends.

    Args:
        send: of aiokafka's client.
        name: of range for this log.
    """

    def __init__(self, send: Callable[..., Awaitable[Any]], name: str) -> None:
        self._send = send
        self._name = name

    async def __call__(self, node_id: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, JoinGroupRequest):
            return await self._send(node_id, request, **options)
        ((_, metadata),) = request._group_protocols  # noqa: SLF001
        plain = (RangePartitionAssignor.name, metadata)
        request._group_protocols = [(self._name, metadata), plain]  # noqa: SLF001
        response = await self._send(node_id, request, **options)
        if response.group_protocol == RangePartitionAssignor.name:
            response.group_protocol = self._name
        return response


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # Grows when a seek begins, and when it ends.
    _seeks = 0
    # The next offset of each partition that is not committed.
    _next: Mapping[TP, int] = MappingProxyType({})

    def count_waiting(self) -> dict[tuple[str, int], int]:
        """What each partition of this worker has beyond what is committed; from any thread.

        Without those of which no fetch has told the end yet.
        """
        waiting: dict[tuple[str, int], int] = {}
        for partition, offset in self._next.items():
            # It may not have begun, or another worker may have the partition since a moment ago.
            with suppress(ConsumerNotStarted, AssertionError, IllegalStateError):
                end = self.highwater(partition)
                if end is not None:
                    waiting[partition] = max(0, end - offset)
        return waiting

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        is_committed = await super()._commit(offsets)
        if is_committed:
            self._next = {**self._next, **offsets}
        return is_committed

    async def seek_to_committed(self) -> Mapping[TP, int]:
        self._seeks += 1
        try:
            return await self._seek_to_starts()
        finally:
            self._seeks += 1

    async def _seek_to_starts(self) -> Mapping[TP, int]:
        committed = await super().seek_to_committed()
        find_starts = cast("_Transport", self.transport).find_starts
        if find_starts is None:
            return committed
        offsets = {TP(*place): offset for place, offset in committed.items()}
        starts = await find_starts(offsets)
        # All of them: aiokafka seeks to no offset 0, and what was fetched meanwhile is gone.
        if starts:
            await self._thread.seek_wait(starts)
        self._next = dict(starts)
        return starts

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 (Faust's)
        """What was fetched; nothing of it where a seek came in between.

        It may be of the place before the seek. Rows would take its offsets for absorbed up to
        there, and Faust, which drops what is not beyond the last that it has read, would pass over
        what comes before: so all is sought once more.
        """
        seeks = self._seeks
        records = await super()._getmany(active_partitions=active_partitions, timeout=timeout)
        if records and self._seeks != seeks:
            await self.perform_seek()
            return {}
        return records


class _Transport(driver.Transport):
    Consumer = _Consumer
    find_starts: FindStarts | None = None
    fingerprint = ""


class SignalledWorker(Worker):
    """Runs an app in this process; Ctrl-C and SIGTERM stop it in good order.

    Args:
        app: what it runs.
        services: run beside the app, from before its start on.
        on_signal: called first when it is told to stop.
    """

    def __init__(
        self, app: App, services: Sequence[Service], on_signal: Callable[[], None]
    ) -> None:
        super().__init__(app, *services, loglevel="WARN", redirect_stdouts=False, quiet=True)
        self._on_signal = on_signal
        # A terminal's, which turns with each line of a log: for it Faust has every debug line made,
        # of which aiokafka has one for each partition of each fetch.
        self.spinner = None

    def _flag_as_shutdown_by_signal(self) -> None:
        self._on_signal()
        super()._flag_as_shutdown_by_signal()

    def run(self) -> None:
        """Run until it is stopped.

        Raises:
            ServerError: Kafka does not answer.
            Exception: what else ended the app: Faust has an exit code that says nothing.
        """
        try:
            self.execute_from_commandline()
        except SystemExit as end:
            match end.__context__:
                case KafkaError() as error:
                    raise ServerError(f"Kafka: {error}") from error
                case Exception() as error:
                    raise error from None


class _RoomyQueue(ThrowableQueue[Any]):
    """A topic's messages that are at hand; nobody waits for room in it.

    One task of Faust hands over the messages of all topics, and waits where a queue is full. Where
    the agent of that topic waits for what another one brings, as events wait for items that the
    store has lost, both would wait for ever. What is beyond `maxsize` is in memory anyway: of its
    partition nothing more is fetched from four fifths on (`on_pressure_high`).
    """

    def full(self) -> bool:
        return False


class WorkerApp(App):
    """An app that writes no file, and in which no topic's messages keep those of others waiting."""

    def _create_directories(self) -> None:
        """Faust makes folders for tables, which a worker has none of."""

    def FlowControlQueue(  # noqa: N802 (Faust's)
        self, maxsize: int | None = None, *, clear_on_resume: bool = False
    ) -> ThrowableQueue[Any]:
        return _RoomyQueue(
            maxsize=maxsize or self.conf.stream_buffer_maxsize,
            flow_control=self.flow_control,
            clear_on_resume=clear_on_resume,
        )


def set_transport(app: App, fingerprint: str) -> None:
    """Let an app fetch with short waits and assign partitions by range.

    Args:
        fingerprint: of the log that it reads (`features.kafka.LogIdentity`).
    """
    app.transport = transport = _Transport(app.conf.broker_consumer, app)
    transport.fingerprint = fingerprint


def set_starts(app: App, find_starts: FindStarts) -> None:
    """Let an app ask at each assignment where to go on reading."""
    cast("_Transport", app.transport).find_starts = staticmethod(find_starts)


async def batches(app: App, stream: Stream[Any], limit: int) -> AsyncIterator[list[EventT[Any]]]:
    """Yield the events that have arrived, at most `limit` at once, until the worker stops.

    A batch is what arrived while the last one was in flight: a quiet stream is answered at once, a
    busy one fills its batches by itself, and nothing waits for a timer. Faust's own `take` waits,
    and acknowledges a batch even when the code that handles it raised.
    """
    # The queue that Faust fills: its own way from there to an agent costs as much an event as all
    # else that it does, and has one duty here, which `_is_current` does.
    arrived = cast("ChannelT[Any]", stream.channel).queue
    while True:
        try:
            batch = [await arrived.get()]
        except StopAsyncIteration:
            # The worker was told to stop.
            return
        while len(batch) < limit and not arrived.empty():
            batch.append(arrived.get_nowait())
        current = [event for event in batch if _is_current(app, event)]
        if current:
            yield current
        else:
            await asyncio.sleep(0)


def _is_current(app: App, event: EventT[Any]) -> bool:
    """Whether the event was fetched since the last rebalance, and none is under way.

    What was fetched before one will be fetched again, perhaps by another worker.
    """
    is_newest: bool = event.message.generation_id == app.consumer_generation_id
    return is_newest and app.flow_control.is_active()


async def watch_consumer(app: App) -> None:
    """Look for ever whether the consumer is still a member of its group, or on the way to be one.

    Where Kafka refuses it for good, aiokafka keeps the error until it is asked, and Faust never
    asks: the worker would read nothing, and say nothing.

    Raises:
        ServerError: it is no member, and will be none.
    """
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            cast("_ConsumerThread", cast("_Consumer", app.consumer)._thread).check()  # noqa: SLF001
        except KafkaError as error:
            raise ServerError(f"Kafka: group {app.conf.id}: {error}: start again") from error


def assigned_partitions(app: App) -> set[TP]:
    """The partitions that this worker has now."""
    return app.consumer.assignment()


async def commit_offsets(app: App, offsets: Mapping[TP, int]) -> bool:
    """Commit the next offset to read of each partition that is still assigned.

    Topics are read with acks=False, so the public `commit`, which knows acknowledgements only,
    would commit nothing.

    Returns:
        False where Kafka refused, because a rebalance is under way: nothing was committed.
    """
    return await cast("_Consumer", app.consumer)._commit(offsets)  # noqa: SLF001


class AppFlow:
    """Lets partitions of an app be read, or not: `stream.identity_stage.PartitionFlow`."""

    def __init__(self, app: App) -> None:
        self._app = app

    def pause(self, places: Collection[tuple[str, int]]) -> None:
        """Fetch nothing more of these partitions, until `resume`."""
        self._app.consumer.pause_partitions({TP(*place) for place in places})

    def resume(self, places: Collection[tuple[str, int]]) -> None:
        """Fetch what comes of these partitions again, as far as they are this worker's still."""
        if places:
            consumer = self._app.consumer
            own = {TP(*place) for place in places} & set(consumer.assignment())
            consumer.resume_partitions(own)


def count_waiting(app: App) -> dict[tuple[str, int], int]:
    """How many messages of each partition of this worker are not committed; of an app that runs."""
    return cast("_Consumer", app.consumer).count_waiting()
