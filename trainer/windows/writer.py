"""Writes windows: from Kafka (`WindowWriter`), or of a log from files (`WindowLoader`).

The files are the truth: a writer begins where the newest manifest says. What Kafka has of it as
committed offsets is a report for those who watch the lag, made after a file is whole.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Event

import structlog
import tenacity
from confluent_kafka import Message
from headwater_client.errors import DataError, EventError, ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction
from headwater_client.identities import Erasure, Merge
from headwater_client.topics import IDENTITIES

from features.events import EventReader, current_ms, latest_reference_ms
from features.kafka import LogIdentity, describe_log, ensure_log, is_end
from features.positions import WATCH_S, PositionError
from features.settings import BrokerSettings, EventSettings
from trainer.retrying import retrying
from trainer.windows.assembler import (
    AssemblyState,
    ClosedWindow,
    Deduplicator,
    Source,
    WindowAssembler,
)
from trainer.windows.erasures import Erasures, read_identity
from trainer.windows.events import WindowEvent
from trainer.windows.reader import Backlog, MessageReader, log_refused, read_event, source_of
from trainer.windows.settings import WindowSettings
from trainer.windows.store import StagedWindow, WindowManifest, WindowStore


class WindowWriter:
    """Writes windows until it is stopped; one for an address.

    Args:
        kafka: where Kafka is.
        store: where the windows go.
        settings: when a window is closed.
        events: which events count.
        now_s: a clock that never goes back.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        store: WindowStore,
        settings: WindowSettings,
        events: EventSettings = EventSettings(),  # noqa: B008 (frozen)
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = kafka
        self._store = store
        self._settings = settings
        self._events = EventReader(events)
        self._now_s = now_s

    def run(
        self, stop: Event, *, to_end: bool = False, on_turn: Callable[[], None] = lambda: None
    ) -> Iterator[WindowManifest]:
        """Each window, once it is whole and Kafka knows of it.

        What is open when `stop` is set stays in Kafka, for the next run.

        Args:
            stop: set it, from another thread, to end.
            to_end: end by itself once all is read that Kafka has by now.
            on_turn: called again and again, at the latest after the longest pause of a try.

        Raises:
            ServerError: Kafka cannot be read.
            DataError: the newest window is damaged, or a file could not be written.
            ConcurrentWriterError: another writer has written the next window.
        """
        identity = ensure_log(self._kafka)
        appender = WindowAppender(self._store, self._settings, identity.cluster)
        with closing(
            MessageReader(self._kafka, self._settings.group, (*EVENT_TYPES.topics, IDENTITIES))
        ) as reader:
            sources = {source: identity.topics[source[0]] for source in reader.sources}
            assembler = appender.assembler(sources, self._now_s())
            reader.check(assembler.trackers)
            # Asked before it reads: between fetches a broker answers half a second later.
            backlog = reader.backlog() if to_end else None
            watched = _WatchedLog(reader, assembler, self._kafka, identity, on_turn)
            erasures = Erasures()
            erasures.read_log(self._kafka, self._settings.group, stop, on_turn)
            erase = partial(appender.erase, stop=stop, on_turn=on_turn)
            newest = appender.newest.number if appender.newest else 0
            gathering = _Gathering(assembler, self._events, erasures, erase, newest)
            reader.start(assembler.resume())
            for closed in self._fire(watched, gathering, stop, backlog):
                watched.confirm()
                manifest = appender.append(closed, stop, on_turn)
                reader.report(closed.progress.positions)
                yield manifest

    def _fire(
        self, watched: "_WatchedLog", gathering: "_Gathering", stop: Event, backlog: Backlog | None
    ) -> Iterator[ClosedWindow]:
        """Args: backlog: where to end; None: goes on until it is stopped."""
        assembler = gathering.assembler
        while not (stop.is_set() or (backlog and backlog.is_read)):
            for message in watched.read():
                if backlog:
                    backlog.saw(message)
                gathering.take(message)
                if assembler.full:
                    yield from assembler.fire(self._now_s())
            yield from assembler.fire(self._now_s())


class _Gathering:
    """Takes messages into the windows that are open, and people who are forgotten out of all.

    Args:
        reader: of events.
        erasures: those that Kafka had before anything else was read.
        erase: takes a person out of the windows up to a number.
        newest: the newest window when these erasures were read.
    """

    def __init__(
        self,
        assembler: WindowAssembler,
        reader: EventReader,
        erasures: Erasures,
        erase: Callable[[str, int | None], None],
        newest: int,
    ) -> None:
        self.assembler = assembler
        self._reader = reader
        self._erasures = erasures
        self._erase = erase
        self._newest = newest

    def take(self, message: Message) -> None:
        """One message into its window; what breaks the contract the stream has as a dead letter."""
        source, offset = source_of(message), message.offset() or 0
        if is_end(message):
            self.assembler.reached_end(source)
            return
        if source[0] == IDENTITIES:
            if not self.assembler.trackers[source].has(offset):
                self._take_identity(message, source, offset)
            return
        try:
            event = read_event(message, self._reader)
        except EventError as error:
            if self.assembler.refuse(source, offset):
                log_refused(message, error)
            return
        taken_ms = message.timestamp()[1]
        if self._erasures.forgets(event.user_id, taken_ms):
            self.assembler.pass_over(source, offset)
            return
        # A clock of Kafka that is ahead must not make late what comes at the right time.
        arrived_ms = min(self._reader.arrival_ms(taken_ms), current_ms())
        self.assembler.add(WindowEvent(*source, offset, event), arrived_ms)

    def _take_identity(self, message: Message, source: Source, offset: int) -> None:
        """That a guest has become a member, or that somebody is to be forgotten."""
        told = read_identity(message)
        if isinstance(told, Erasure):
            self._forget(told.user_id, message)
            self.assembler.tell_erasure(source, offset)
        elif isinstance(told, Merge) and not self._is_forgotten(told, message):
            self.assembler.merge(source, offset, told.guest, told.member)
        else:
            self.assembler.pass_over(source, offset)

    def _forget(self, person: str, message: Message) -> None:
        """Nothing is settled before: who dies in between begins again."""
        if self._erasures.had(message):
            # What was gathered since the start came after it.
            self._erase(person, self._newest)
            return
        self._erasures.note(message)
        self.assembler.forget(person)
        self._erase(person, None)

    def _is_forgotten(self, merge: Merge, message: Message) -> bool:
        taken_ms = message.timestamp()[1]
        return any(self._erasures.forgets(one, taken_ms) for one in (merge.guest, merge.member))


class _WatchedLog:
    """Reads Kafka's log, and looks whether it is still the one that windows hold."""

    def __init__(
        self,
        reader: MessageReader,
        assembler: WindowAssembler,
        kafka: BrokerSettings,
        identity: LogIdentity,
        on_turn: Callable[[], None],
    ) -> None:
        self._on_turn = on_turn
        self._reader = reader
        self._assembler = assembler
        self._kafka = kafka
        self._identity = identity
        self._looked_s = self._confirmed_s = time.monotonic()

    def read(self) -> Iterable[Message]:
        """What has arrived, as of `MessageReader.read`.

        Raises:
            PositionError: a topic was made anew, has more partitions, or lost messages.
        """
        self._on_turn()
        if time.monotonic() - self._looked_s >= WATCH_S:
            self._looked_s = time.monotonic()
            self._look(self._find_problem)
        messages = list(self._reader.read())
        if messages and self._reader.was_cut_off:
            self._look(self._find_change)
        return messages

    def confirm(self) -> None:
        """Look once more before a window is written, unless that was a moment ago.

        Raises:
            PositionError: its events may be those of another log.
        """
        if self._reader.was_cut_off or time.monotonic() - self._confirmed_s >= CONFIRM_S:
            self._look(self._find_change)

    def _look(self, find: Callable[[], str | None]) -> None:
        self._confirmed_s = time.monotonic()
        try:
            problem = find()
        except ServerError as error:
            log.warning("kafka_away", reason=str(error))
        else:
            self._reader.was_cut_off = False
            _refuse_log(problem)

    def _find_change(self) -> str | None:
        return self._identity.find_change(describe_log(self._kafka))

    def _find_problem(self) -> str | None:
        if change := self._find_change():
            return change
        try:
            self._reader.check_ends(self._assembler.trackers)
        except PositionError as error:
            return str(error)
        return None


def _refuse_log(problem: str | None) -> None:
    if problem:
        raise PositionError(problem)


# When windows close one after another, each look takes as long as one of them.
CONFIRM_S = 1.0
# Shorter than a loop may stand still (`on_turn`).
LONGEST_PAUSE_S = 20.0
log = structlog.get_logger()


class WindowAppender:
    """Writes the windows after the newest one; one for an address.

    Args:
        store: where the windows go.
        settings: when a window is closed.
        cluster: Kafka's own id of the cluster that events are read from, if they are.

    Raises:
        DataError: the newest window is damaged.
        SettingsError: it is of another cluster; or two writers could not be kept apart there.
    """

    def __init__(self, store: WindowStore, settings: WindowSettings, cluster: str = "") -> None:
        self._store = store
        self._settings = settings
        self._cluster = cluster
        store.check()
        self.newest = store.newest()
        if self.newest:
            _check_cluster(self.newest.progress.cluster, cluster)
            store.place(self.newest)
        self._number = self.newest.number if self.newest else 0

    def assembler(self, sources: Mapping[Source, str], now_s: float) -> WindowAssembler:
        """What assembles the events that no window has; arguments as of `WindowAssembler`."""
        repeats = Deduplicator(self._settings.dedup_window, self._newest_rows())
        progress = self.newest.progress if self.newest else AssemblyState()
        if progress.finished_ms > latest_reference_ms(current_ms()):
            # An older release believed an event of the year 2200: all that came since was late.
            progress = replace(progress, finished_ms=current_ms())
        return WindowAssembler(sources, self._settings, progress, repeats, now_s)

    def append(
        self, closed: ClosedWindow, stop: Event, on_turn: Callable[[], None] = lambda: None
    ) -> WindowManifest:
        """Write the next window.

        Args:
            stop: set it, from another thread, to end trying again.
            on_turn: called before each try.

        Raises:
            DataError: a file could not be written.
            ConcurrentWriterError: another process has written this window.
        """
        self._number += 1
        progress = replace(closed.progress, cluster=self._cluster)
        draft = self._store.prepare(self._number, replace(closed, progress=progress))
        self._write(draft, stop, on_turn)
        return draft.manifest

    def _newest_rows(self) -> Iterator[WindowEvent]:
        """At least the last rows that are remembered, oldest first."""
        wanted = self._settings.dedup_window
        windows: list[list[WindowEvent]] = []
        for number in reversed(self._store.numbers()):
            if wanted <= 0:
                break
            windows.append(self._rows_if_readable(number))
            wanted -= sum(not row.repeated for row in windows[-1])
        for rows in reversed(windows):
            yield from rows

    def _rows_if_readable(self, number: int) -> list[WindowEvent]:
        """A damaged window costs marks of repeats; it is no reason to write no more of them."""
        try:
            return self._store.read(number).rows
        except DataError as error:
            log.warning("window_unreadable", window=number, reason=str(error))
            return []

    def erase(
        self,
        person: str,
        newest: int | None,
        stop: Event,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a person out of the windows up to a number, or out of all.

        Args:
            stop, on_turn: as of `append`.

        Raises:
            DataError: a file could not be written.
        """
        last = self._number if newest is None else newest
        retry = self._retrying("person_not_erased", stop)

        def attempt() -> int:
            on_turn()
            return self._store.erase(person, last)

        try:
            removed = retry(attempt)
        except OSError as error:
            raise DataError(
                f"windows.address: a person cannot be taken out of the windows: {error}: make room "
                "or correct the rights of its files, and start again"
            ) from error
        log.info("person_erased", windows=last, events=removed)

    def _write(self, draft: StagedWindow, stop: Event, on_turn: Callable[[], None]) -> None:
        """Write a window; a disk that is full now may have room in a minute."""
        write = self._retrying("window_not_written", stop)

        def attempt() -> None:
            on_turn()
            self._store.write(draft)

        try:
            write(attempt)
        except OSError as error:
            raise DataError(
                f"{self._store.address(draft.manifest)}: cannot be written: {error}: make room or "
                "correct windows.address, and start again: none of its events is lost"
            ) from error
        told = draft.manifest
        log.info(
            "window_written",
            window=told.number,
            events=told.events,
            late=told.late,
            repeated=told.repeated,
            refused=told.refused,
            reason=told.reason,
            bytes=told.size_bytes,
        )

    def _retrying(self, told: str, stop: Event) -> tenacity.Retrying:
        return retrying(
            self._settings.retry_s, OSError, longest_pause_s=LONGEST_PAUSE_S, told=told, stop=stop
        )


def _check_cluster(there: str, now: str) -> None:
    if there and now and there != now:
        raise SettingsError(
            f"windows.address: the windows there are of the Kafka cluster {there}, and this one is "
            f"{now}: what was copied from there would be in windows twice: set another "
            "windows.address"
        )


LOADED_PARTITION = -1


class WindowLoader:
    """Writes those windows of a log that are missing.

    A writer that begins later finds none of Kafka's partitions in them, and reads all of Kafka.

    Args:
        fingerprint: names the log; it stands where a topic's id would.
        store: where the windows go.
        settings: when a window is closed.

    Raises:
        SettingsError: the newest window is of Kafka, or of another log.
        DataError: the newest window is damaged.
    """

    def __init__(self, fingerprint: str, store: WindowStore, settings: WindowSettings) -> None:
        self._appender = WindowAppender(store, settings)
        newest = self._appender.newest
        positions = newest.progress.positions if newest else ()
        if any(each.topic_id != fingerprint for each in positions):
            raise SettingsError(
                "windows.address: the windows there are of Kafka or of another log: nothing was "
                "appended; set another windows.address"
            )
        self._assembler = self._appender.assembler(dict.fromkeys(_sources(), fingerprint), 0.0)

    def write(self, events: Sequence[Interaction]) -> Iterator[WindowManifest]:
        """Each window, once it is whole.

        Args:
            events: the whole log, in event-time order.

        Raises:
            DataError: a file could not be written.
            ConcurrentWriterError: another process has written the next window.
        """
        never = Event()
        for closed in _fire(events, self._assembler):
            yield self._appender.append(closed, never)


def _sources() -> list[tuple[str, int]]:
    return [(topic, LOADED_PARTITION) for topic in EVENT_TYPES.topics]


def _fire(events: Sequence[Interaction], assembler: WindowAssembler) -> Iterator[ClosedWindow]:
    sources = _sources()
    for offset, event in enumerate(events):
        topic = EVENT_TYPES.spec_of(event).topic
        assembler.add(WindowEvent(topic, LOADED_PARTITION, offset, event), event.timestamp)
        for source in sources:
            # The log is in the order of time: no partition waits for another.
            assembler.reached_end(source)
        yield from assembler.fire(0.0)
    # Nothing comes after: what is open is closed.
    yield from assembler.fire(math.inf)
