"""Rebuilds rows of the online store: events change them as a worker lets them, nobody is answered.

A row knows what it has absorbed. So a backfill may be killed and done again, and a worker that
starts afterwards goes on from its rows: docs/decisions/0014-backfill.md argues it.
"""

from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass

import structlog
import tenacity
from confluent_kafka import Message
from headwater_client.errors import EventError, HeadwaterError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Item
from headwater_client.identities import Erased
from headwater_client.topics import IDENTITIES, ITEMS, PEOPLE

from deploy.settings import Settings
from features import columns
from features.events import EventReader, arrival_ms, current_ms
from features.kafka import (
    LogIdentity,
    ensure_log,
    ensure_sources,
    group_members,
    group_offsets,
    is_end,
)
from features.positions import claim_positions, raise_positions
from features.rows import ItemGroup
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from features.store import LOADED, RowRead, RowStore, claim_log, claim_rows, popularity_table
from features.store.redis import RedisRowStore
from features.topics import Hash, source_hash
from stream.catalogue import LOADED_ITEMS, CatalogueCache, ItemUpdate, parse_item, write_items
from stream.failures import is_transient
from stream.identities import IdentityReader, IdentityRecord, IdentityUpdater
from stream.people import AttributesUpdate, parse_attributes, write_attributes
from stream.row_updates import ConsumerRecord, ItemGroupKey, RowUpdater
from stream.trending import TrendingSource
from trainer.datasets import Log
from trainer.windows.reader import MessageReader, log_refused, read_event, source_of

ATTEMPTS = 8
DURABLE_MS = 5_000
Progress = Callable[[int, int], None]
"""Told how many messages are done, of how many."""
Sources = Mapping[tuple[str, int], Hash]
log = structlog.get_logger()


class WorkersRunningError(HeadwaterError):
    """Workers would change rows that are not complete yet."""


@dataclass
class BackfillCounts:
    """Counts of messages read. Messages that rows already contained changed nothing."""

    items: int = 0
    events: int = 0
    refused: int = 0
    people: int = 0

    @property
    def total(self) -> int:
        """All messages read."""
        return self.items + self.events + self.refused + self.people


class RowFiller:
    """Lets batches change the rows of people, items and trends.

    Args:
        store: where the rows are.
        settings: of the workers.
    """

    def __init__(self, store: RowStore, settings: Settings) -> None:
        worker, partitions = settings.worker, settings.kafka.partitions
        self._store = store
        self._schema = FeatureSchema(settings.features)
        self._popularity = popularity_table(partitions)
        catalogue = CatalogueCache(store, worker.catalogue_refresh_s)
        self._updater = RowUpdater(
            store, self._schema, catalogue, self._popularity, worker.row_cache
        )
        self._identities = IdentityUpdater(store, self._schema, catalogue)
        self._trends = TrendingSource(
            store, self._schema, partitions, worker.trending_items, worker.trends_refresh_s
        )
        self._touched: defaultdict[str, set[str]] = defaultdict(set)

    async def add_items(self, newest: Mapping[str, ItemUpdate]) -> None:
        """What the catalogue says, by item_id.

        Raises:
            ServerError: the store does not answer.
        """
        async for attempt in _retry_attempts():
            with attempt:
                await write_items(self._store, newest)

    async def add_attributes(self, newest: Mapping[str, AttributesUpdate]) -> None:
        """What apps know of people, by user_id.

        Raises:
            ServerError: the store does not answer.
        """
        async for attempt in _retry_attempts():
            with attempt:
                await write_attributes(self._store, newest)

    async def add_identities(self, batch: Sequence[IdentityRecord]) -> None:
        """Who has become whom, and who was forgotten; nothing is sent.

        Raises:
            ServerError: the store does not answer.
        """
        async for attempt in _retry_attempts():
            with attempt:
                await self._identities.apply(batch)

    async def add_events(self, batch: Sequence[ConsumerRecord]) -> None:
        """What people did, each source's in its order.

        Raises:
            ServerError: the store does not answer.
        """
        async for attempt in _retry_attempts():
            with attempt:
                await self._updater.apply(batch)
        for arrived in batch:
            self._touched[arrived.event.item_id].add(arrived.column)

    async def finish(self) -> None:
        """Make the lists of what trends from the item rows, and wait until all is on disk.

        From all of them: those that an earlier run was killed over have changed nothing now.

        Raises:
            ServerError: the store does not answer.
        """
        # In one order: items that are as popular as one another stand as they did.
        names = sorted(self._touched)
        for start in range(0, len(names), BATCH):
            self._trends.record(await self._groups(names[start : start + BATCH]))
            await self._trends.refresh()
        while not await self._store.wait_until_durable(DURABLE_MS):
            log.warning("store_slow_to_disk", waited_ms=DURABLE_MS)

    async def _groups(self, item_ids: Sequence[str]) -> dict[ItemGroupKey, ItemGroup]:
        reads = [RowRead(self._popularity, name, sorted(self._touched[name])) for name in item_ids]
        found = {
            ItemGroupKey(read.entity_id, column): value
            for read, stored in zip(reads, await self._store.read(reads), strict=True)
            for column, value in stored.items()
            if value is not None
        }
        groups = {}
        for key, value in found.items():
            # A damaged one, of which nothing has changed, waits for its next event.
            with suppress(columns.DamagedRowError):
                groups[key] = columns.decode_group(value, self._schema)
        return groups


@asynccontextmanager
async def open_filler(
    settings: Settings,
    fingerprint: str | None = None,
    identity: LogIdentity | None = None,
    ends: Mapping[tuple[str, int], int] | None = None,
) -> AsyncIterator[RowFiller]:
    """A filler of the store; what it was given is on disk when the block ends without an error.

    Args:
        settings: with the store's address.
        fingerprint: of the log that is loaded, if it is from files.
        identity: of Kafka's log, if it is from there.
        ends: up to where rows hold that log in the end.

    Raises:
        SettingsError: the store has rows of other settings, or of another log.
        ServerError: the store does not answer.
    """
    store = RedisRowStore(settings.store)
    try:
        await claim_positions(store, settings.kafka, settings.worker.group, identity)
        await claim_rows(store, FeatureSchema(settings.features))
        if fingerprint is not None:
            await claim_log(store, fingerprint)
        filler = RowFiller(store, settings)
        yield filler
        await filler.finish()
        if identity and ends:
            await raise_positions(store, identity, ends)
    finally:
        await store.close()


def wait_for_workers(settings: Settings) -> None:
    """Wait until no worker runs: one that was stopped stays in its group until its session ends.

    A row that has absorbed what is newest would take all that is older for absorbed.

    Raises:
        WorkersRunningError: some go on.
    """
    group = settings.worker.group
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(WorkersRunningError),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(settings.worker.session_timeout_s + 2),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            if members := group_members(settings.kafka, group):
                raise WorkersRunningError(
                    f"workers run in group {group} ({', '.join(members)}): stop them, and start "
                    "them again after the backfill"
                )


async def fill_rows_from_kafka(settings: Settings, progress: Progress) -> BackfillCounts:
    """Give the store all that Kafka has of the catalogue, and then of what people did.

    No worker may run meanwhile: `wait_for_workers`.

    Raises:
        SettingsError: the store has rows of other settings.
        ServerError: Kafka or the store does not answer.
    """
    identity, filled = ensure_log(settings.kafka), BackfillCounts()
    sources = identity.sources
    reader = EventReader(settings.events)
    identity_reader = IdentityReader(FeatureSchema(settings.features), reader.check_person)
    answered = group_offsets(settings.kafka, settings.worker.group, identity)
    with (
        closing(KafkaBacklog(settings.kafka, [ITEMS])) as catalogue,
        closing(KafkaBacklog(settings.kafka, [PEOPLE])) as people,
        closing(KafkaBacklog(settings.kafka, [IDENTITIES])) as identities,
        closing(KafkaBacklog(settings.kafka, EVENT_TYPES.topics)) as actions,
    ):
        total = catalogue.total + people.total + identities.total + actions.total
        ends = {**catalogue.ends, **people.ends, **actions.ends}
        # What workers have not answered is left to them: it wants rows that are whole.
        ends |= {each: answered[each] for each in identities.ends if each in answered}
        async with open_filler(settings, identity=identity, ends=ends) as filler:
            for batch in catalogue.batches():
                await filler.add_items(_read_items(batch, sources, filled))
                progress(filled.total, total)
            for batch in people.batches():
                await filler.add_attributes(_read_people(batch, sources, filled))
                progress(filled.total, total)
            for batch in identities.batches():
                told = _read_identities(batch, identity_reader, sources, answered)
                filled.people += len(batch)
                await filler.add_identities(told)
                progress(filled.total, total)
            for batch in actions.batches():
                records = _read_events(batch, reader, sources, filled)
                await filler.add_events(records)
                filled.events += len(records)
                progress(filled.total, total)
    return filled


def read_catalogue(settings: Settings) -> list[Item]:
    """The catalogue as Kafka has it now.

    Raises:
        SettingsError, ServerError: Kafka cannot be read.
    """
    sources = ensure_sources(settings.kafka)
    newest: dict[str, ItemUpdate] = {}
    with closing(KafkaBacklog(settings.kafka, [ITEMS])) as catalogue:
        for batch in catalogue.batches():
            newest |= _read_items(batch, sources, BackfillCounts())
    return [told.item for told in newest.values() if told.item]


async def fill_rows_from_log(settings: Settings, past: Log, progress: Progress) -> BackfillCounts:
    """Give the store a log from files, as what was before the first event of the stream.

    Raises:
        SettingsError: the store has rows of other settings, or of another log.
        ServerError: the store does not answer.
    """
    total = len(past.items) + len(past.events)
    first_ms = past.events[0].timestamp if past.events else 0
    async with open_filler(settings, past.fingerprint) as filler:
        for start in range(0, len(past.items), BATCH):
            part = enumerate(past.items[start : start + BATCH], start)
            told = {each.item_id: ItemUpdate(each, LOADED_ITEMS, at, first_ms) for at, each in part}
            await filler.add_items(told)
            progress(start + len(told), total)
        for start in range(0, len(past.events), BATCH):
            events = past.events[start : start + BATCH]
            await filler.add_events(
                [_loaded_record(event, at) for at, event in enumerate(events, start)]
            )
            progress(len(past.items) + start + len(events), total)
    return BackfillCounts(len(past.items), len(past.events), len(past.refused))


def _retry_attempts() -> tenacity.AsyncRetrying:
    """Another process may be writing the same rows; a store that stays away is an error."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=tenacity.wait_exponential_jitter(initial=0.1, max=2),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )


def _read_items(
    batch: Iterable[Message], sources: Sources, filled: BackfillCounts
) -> dict[str, ItemUpdate]:
    """The newest message of each item; what breaks the contract is passed over."""
    newest: dict[str, ItemUpdate] = {}
    for message in batch:
        try:
            item_id, item = parse_item(message.key(), message.value())
        except EventError as error:
            _refuse(message, error, filled)
            continue
        filled.items += 1
        source, offset = sources[source_of(message)], message.offset() or 0
        time_ms = arrival_ms(message.timestamp()[1], current_ms())
        newest[item_id] = ItemUpdate(item, source, offset, time_ms)
    return newest


def _read_people(
    batch: Iterable[Message], sources: Sources, filled: BackfillCounts
) -> dict[str, AttributesUpdate]:
    """The newest message about each person; what breaks the contract is passed over."""
    newest: dict[str, AttributesUpdate] = {}
    for message in batch:
        try:
            user_id, attributes = parse_attributes(message.key(), message.value())
        except EventError as error:
            _refuse(message, error, filled)
            continue
        filled.people += 1
        source, offset = sources[source_of(message)], message.offset() or 0
        time_ms = arrival_ms(message.timestamp()[1], current_ms())
        newest[user_id] = AttributesUpdate(attributes, source, offset, time_ms)
    return newest


def _read_identities(
    batch: Iterable[Message],
    reader: IdentityReader,
    sources: Sources,
    answered: Mapping[tuple[str, int], int],
) -> list[IdentityRecord]:
    """What workers have answered; and of what they have not, for how long who is forgotten."""
    records = []
    for message in batch:
        try:
            told, event = reader.read(message.key(), message.value())
        except EventError as error:
            log_refused(message, error)
            continue
        place, offset = source_of(message), message.offset() or 0
        source, time_ms = sources[place], arrival_ms(message.timestamp()[1], current_ms())
        if offset >= answered.get(place, 0):
            if not isinstance(told, Erased):
                continue
            # As far as what had asked for it: what comes between is still to be done.
            offset = told.offsets.get(str(source), -1)
        records.append(IdentityRecord(told, source, offset, time_ms, event, answered=True))
    return records


def _read_events(
    batch: Iterable[Message], reader: EventReader, sources: Sources, filled: BackfillCounts
) -> list[ConsumerRecord]:
    """The events of a batch; what breaks the contract is passed over."""
    records = []
    for message in batch:
        try:
            event = read_event(message, reader)
        except EventError as error:
            _refuse(message, error, filled)
            continue
        topic, partition = source_of(message)
        source, offset = sources[topic, partition], message.offset() or 0
        time_ms = arrival_ms(message.timestamp()[1], current_ms())
        records.append(ConsumerRecord(event, f"{topic}_{partition}", source, offset, time_ms))
    return records


def _loaded_record(event: Interaction, offset: int) -> ConsumerRecord:
    column = f"{EVENT_TYPES.spec_of(event).topic}_{LOADED}"
    return ConsumerRecord(event, column, source_hash(column, 0), offset)


def _refuse(message: Message, error: EventError, filled: BackfillCounts) -> None:
    filled.refused += 1
    log_refused(message, error)


# What Kafka has of some topics, from the oldest message on to those that it has by now.


GROUP = "headwater-backfill"
BATCH = 4096


class KafkaBacklog:
    """All messages of some topics; it commits nothing, so that no worker is moved.

    Args:
        kafka: where Kafka is.
        topics: what to read, all partitions of it.

    Raises:
        ServerError: Kafka does not answer, or a topic is missing.
    """

    def __init__(self, kafka: BrokerSettings, topics: Collection[str]) -> None:
        self._reader = MessageReader(kafka, GROUP, topics)
        self._backlog = self._reader.backlog()
        self.total = self._backlog.total
        self.ends = dict(self._backlog.ends)

    def batches(self) -> Iterator[list[Message]]:
        """The messages, each partition's in its order.

        Raises:
            ServerError: a partition cannot be read.
        """
        backlog = self._backlog
        self._reader.start(backlog.starts)
        while not backlog.is_read:
            batch: list[Message] = []
            while len(batch) < BATCH and not backlog.is_read:
                for message in self._reader.read():
                    backlog.saw(message)
                    if not is_end(message):
                        batch.append(message)
            yield batch

    def close(self) -> None:
        """End reading."""
        self._reader.close()
