"""A log of events and identities, and a worker a partition that reads it, crashes, and goes on.

The log is lists, the rows are in memory; what changes rows, and what that leads to, is the worker's
own code. A worker takes messages of one topic at a time, in any order of topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from headwater_client import EVENT_TYPES, Interaction, Item, encode
from headwater_client.identities import IdentityMessage, decode_identity, key_of
from headwater_client.topics import IDENTITIES

from features.columns import decode_group, decode_user, encode_item
from features.rows import UserRow
from features.schema import FeatureSchema
from features.store import CATALOGUE, USERS, popularity_table
from features.topics import source_hash
from stream.catalogue import CatalogueCache
from stream.identities import IdentityReader, IdentityRecord, IdentityUpdater, send_on
from stream.row_updates import ConsumerRecord, RowUpdater
from tests.harness.memory_store import MemoryRowStore

PARTITIONS = 3
START_MS = 1_600_000_000_000
Source = tuple[str, int]


class Fate(StrEnum):
    """What becomes of a worker that handles a batch."""

    GOES_ON = "goes on"
    DIES_UNSENT = "dies once rows are written"
    DIES_UNCOMMITTED = "dies once all is sent"


@dataclass
class IdentityLog:
    """The log, the rows, and how far each partition's worker is.

    Attributes:
        partition_of: of each person.
        committed: by source, the first offset that is to be read by a worker that starts.
        answered: by source, below which offset all is in the log that its messages lead to.
        ends: by source, that of the log when rows were lost.
    """

    schema: FeatureSchema
    items: Sequence[Item]
    partition_of: dict[str, int]
    messages: defaultdict[Source, list[tuple[int, Interaction | IdentityMessage]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    committed: defaultdict[Source, int] = field(default_factory=lambda: defaultdict(int))
    answered: defaultdict[Source, int] = field(default_factory=lambda: defaultdict(int))
    ends: defaultdict[Source, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.now_ms = START_MS + 10**11
        self._positions: defaultdict[Source, int] = defaultdict(int)
        self._reader = IdentityReader(self.schema, lambda person, field: None)
        self.lose_store()

    def lose_store(self) -> None:
        """All rows are gone: workers read again from the beginning."""
        self.store = MemoryRowStore()
        for item in self.items:
            self.store.rows[CATALOGUE.name, item.item_id] = dict(encode_item(item, 0, 0))
        for source in self.messages:
            self.answered[source] = max(self.answered[source], self.committed[source])
            self.committed[source] = 0
            self.ends[source] = len(self.messages[source])
        for partition in range(PARTITIONS):
            self.restart(partition)

    def restart(self, partition: int) -> None:
        """A worker dies, and another reads from what was committed."""
        catalogue = CatalogueCache(self.store, 60.0)  # type: ignore[arg-type]
        popularity = popularity_table(PARTITIONS)
        workers = self.__dict__.setdefault("workers", {})
        workers[partition] = (
            RowUpdater(self.store, self.schema, catalogue, popularity, 100),  # type: ignore[arg-type]
            IdentityUpdater(self.store, self.schema, catalogue),  # type: ignore[arg-type]
        )
        for topic in (*EVENT_TYPES.topics, IDENTITIES):
            self._positions[topic, partition] = self.committed[topic, partition]

    def send(self, message: Interaction | IdentityMessage) -> None:
        """Append a message to its person's partition."""
        if isinstance(message, Interaction):
            topic, person = EVENT_TYPES.spec_of(message).topic, message.user_id
        else:
            topic, person = IDENTITIES, key_of(message)
        self.now_ms += 1
        self.messages[topic, self.partition_of[person]].append((self.now_ms, message))

    def commit(self, partition: int) -> None:
        for topic in (*EVENT_TYPES.topics, IDENTITIES):
            source = topic, partition
            self.committed[source] = max(self.committed[source], self._positions[source])

    async def handle(self, source: Source, limit: int, fate: Fate = Fate.GOES_ON) -> bool:
        """Let a worker handle some messages of a topic; whether there were any that it may."""
        begin = self._positions[source]
        some = [
            (offset, *told)
            for offset, told in enumerate(self.messages[source][begin : begin + limit], begin)
        ]
        records = some[: self._count_allowed(source, some)]
        if not records:
            return False
        leads_to = await self._apply(source, records)
        if fate is not Fate.DIES_UNSENT:
            for message in leads_to:
                # As it comes back from Kafka.
                self.send(decode_identity(encode(message)))
        if fate is Fate.GOES_ON:
            self._positions[source] = records[-1][0] + 1
        else:
            self.restart(source[1])
        return True

    def _count_allowed(
        self, source: Source, some: Sequence[tuple[int, int, Interaction | IdentityMessage]]
    ) -> int:
        """How many of these messages may be handled now, while the log is read again."""
        topic, partition = source
        if topic != IDENTITIES:
            known, place = (IDENTITIES, partition), self._positions[IDENTITIES, partition]
            if place >= max(self.answered[known], self.ends[known]):
                return len(some)
            if place < self.answered[known]:
                return 0
            return sum(offset < self.answered[source] for offset, *_ in some)
        if all(self._is_read_again(each, partition) for each in EVENT_TYPES.topics):
            return len(some)
        is_held = (
            offset >= self.answered[source]
            and IdentityRecord(message, source_hash(topic, partition), 0, 0).is_request  # type: ignore[arg-type]
            for offset, _, message in some
        )
        return next((at for at, held in enumerate(is_held) if held), len(some))

    def _is_read_again(self, topic: str, partition: int) -> bool:
        return self._positions[topic, partition] >= self.answered[topic, partition]

    async def _apply(
        self, source: Source, some: Sequence[tuple[int, int, Interaction | IdentityMessage]]
    ) -> list[IdentityMessage]:
        (topic, partition), named = source, source_hash(*source)
        events, identities = self.workers[partition]
        answered = self.answered[source]
        if topic == IDENTITIES:
            batch = []
            for offset, time_ms, message in some:
                key, value = key_of(message).encode(), encode(message)
                told, event = self._reader.read(key, value)
                batch.append(IdentityRecord(told, named, offset, time_ms, event, offset < answered))
            return list(await identities.apply(batch))
        records = [
            ConsumerRecord(event, f"{topic}_{partition}", named, offset, at, offset < answered)
            for offset, at, event in some
        ]
        changes = await events.apply(records)
        return list(send_on(records, changes.users))

    async def drain(self) -> None:
        """Handle all that is left, whatever it leads to included."""
        is_moving = True
        while is_moving:
            is_moving = False
            for source in sorted(self.messages):
                while await self.handle(source, 7):
                    is_moving = True

    def row(self, person: str) -> UserRow:
        stored = self.store.rows.get((USERS.name, person), {})
        return decode_user({**dict.fromkeys(USERS.columns), **stored}, self.schema)

    def count_items(self) -> float:
        """What all items have counted of all sources, undecayed."""
        rows = [row for (table, _), row in self.store.rows.items() if table == "item_popularity"]
        groups = [decode_group(column, self.schema) for row in rows for column in row.values()]
        return sum(group.values[-1] for group in groups)
