"""Keeps the catalogue's columns as the store and the topic `items` have them.

    topic `items`   |----- before ----------|-- each message changes its item at once --->
    store                 |-- all rows --|     |- slice -| |- slice -| |- slice -| --->

The topic is followed from its end before the first row is read, so that no change falls in between.
What the worker writes later than this process reads it, or what comes by another way than the
topic, is found by slices: of some rows at a time the `offsets` are compared with those held.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

import confluent_kafka
import structlog
from confluent_kafka import Message, TopicPartition
from headwater_client import EventError, Item, ServerError
from headwater_client.topics import ITEMS

from features import columns
from features.columns import DamagedRowError
from features.kafka import partition_bounds, watched_config
from features.metrics import LogThrottle
from features.schema import FIRST_ITEM
from features.settings import BrokerSettings
from features.store import CATALOGUE, VERSION, RowRead, RowStore
from features.topics import Hash
from stream.catalogue import LOADED_ITEMS, parse_item
from stream.filtering import FilterableItems
from stream.routing import Routes
from stream.trending import TrendingSource

# Rows that are read in one call; and after so many others get their turn.
_SLICE = 1000
_TURN = 100
_MESSAGES = 500
_POLL_S = 0.2
Place = tuple[int, int]
log = structlog.get_logger()


class ItemFollower:
    """Reads every item that a version knows or that trends, and then what changes.

    Args:
        kafka: where the topic is.
        store: where the rows are.
        routes: whose items there are to be.
        refresh_s: seconds from one slice to the next.

    Attributes:
        items: what is kept up to date.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        store: RowStore,
        routes: Routes,
        trending: TrendingSource,
        refresh_s: float,
    ) -> None:
        self.items = FilterableItems()
        self._kafka = kafka
        self._store = store
        self._routes = routes
        self._trending = trending
        self._refresh_s = refresh_s
        self._consumer: confluent_kafka.Consumer | None = None
        self._sources: Mapping[int, Hash] = {}
        # The message that each item is of: its source and offset.
        self._places: dict[str, Place] = {}
        self._read_for: set[str] = set()
        self._next = 0
        self._started = asyncio.Event()
        self._failed = LogThrottle()

    async def start(self, sources: Mapping[tuple[str, int], Hash]) -> None:
        """Read all items.

        Args:
            sources: what rows call each partition.

        Raises:
            ServerError: Kafka or the store does not answer.
        """
        if self._consumer is None:
            mine = ((part, name) for (topic, part), name in sources.items() if topic == ITEMS)
            self._sources = dict(mine)
            await asyncio.to_thread(self._follow_from_end)
        await self._read_missing()
        self._started.set()

    def _follow_from_end(self) -> None:
        bounds = partition_bounds(self._kafka, [(ITEMS, part) for part in self._sources])
        consumer = confluent_kafka.Consumer(
            watched_config(self._kafka)
            | {
                # It is alone, is assigned its partitions, and commits nothing.
                "group.id": "headwater-items",
                "enable.auto.commit": "false",
                "auto.offset.reset": "earliest",
                "log_level": "0",
            }
        )
        consumer.assign([TopicPartition(*place, end) for place, (_, end) in bounds.items()])
        self._consumer = consumer

    async def run(self) -> None:
        """Follow for ever, once `start` is done."""
        await self._started.wait()
        due_s = monotonic() + self._refresh_s
        while True:
            messages = await asyncio.to_thread(self._poll)
            for place, message in enumerate(messages):
                self._take(message)
                if place % _TURN == _TURN - 1:
                    await asyncio.sleep(0)
            if monotonic() < due_s:
                continue
            due_s = monotonic() + self._refresh_s
            try:
                await self._read_missing()
                await self._compare_slice()
            except ServerError as error:
                if turns := self._failed.count():
                    log.warning("items_not_compared", error=str(error), turns=turns)

    def _poll(self) -> list[Message]:
        assert self._consumer is not None
        return self._consumer.consume(_MESSAGES, _POLL_S)

    def _take(self, message: Message) -> None:
        """Take what a message says of an item; what is refused the worker puts aside, and says."""
        source = self._sources.get(message.partition() or 0)
        if message.error() is not None or source is None:
            return
        try:
            name, item = parse_item(_as_bytes(message.key()), _as_bytes(message.value()))
        except EventError:
            return
        place = source, message.offset() or 0
        self._put(item or Item(item_id=name, available=False), place)

    def _put(self, item: Item, place: Place) -> None:
        self.items.table.put(item)
        self._places[item.item_id] = place

    async def _read_missing(self) -> None:
        """Read the items that versions and trends have come with since the last time."""
        routes, names = self._routes.answering, [*self._trending.items.item_ids]
        addresses = {route.version.address for route in routes}
        for route in routes:
            if route.version.address not in self._read_for:
                names += route.vocabulary.item_ids[FIRST_ITEM:]
        await self._read([name for name in dict.fromkeys(names) if name not in self.items.table])
        asked_for, self.items.asked_for = self.items.asked_for, set()
        await self._read([name for name in asked_for if name not in self.items.table], known=True)
        self.items.forget_versions(addresses)
        self._read_for = addresses

    async def _read(self, names: Sequence[str], *, known: bool = False) -> None:
        """Read items.

        Args:
            known: only what the catalogue has: anybody can name items that nobody sells.
        """
        for start in range(0, len(names), _SLICE):
            reads = [
                RowRead(CATALOGUE, name, columns.ITEM_COLUMNS)
                for name in names[start : start + _SLICE]
            ]
            stored = await self._store.read(reads)
            for place, (read, row) in enumerate(zip(reads, stored, strict=True)):
                if row[VERSION] is not None or not known:
                    self._take_row(read.entity_id, row)
                if place % _TURN == _TURN - 1:
                    await asyncio.sleep(0)

    def _take_row(self, name: str, row: Mapping[str, bytes | None]) -> None:
        try:
            place = columns.decode_pair(row[VERSION])
            item = columns.decode_catalogue_item(name, row)
        except DamagedRowError:
            # As in `CatalogueCache`, which tells of it: not recommended until its next message.
            place, item = (0, -1), Item(item_id=name, available=False)
        if not self._is_newer(name, place):
            # Without a row it is available; taken out of the catalogue it has one.
            self._put(item or Item(item_id=name, available=row[VERSION] is None), place)

    def _is_newer(self, name: str, stored: Place) -> bool:
        """Whether what is held of an item is of a later message than its row."""
        source, offset = self._places.get(name, (0, -1))
        if source not in self._sources.values():
            return False
        was_loaded = stored[0] in (0, LOADED_ITEMS)
        return was_loaded or (source == stored[0] and offset > stored[1])

    async def _compare_slice(self) -> None:
        """Look whether some rows are still those that are held, and read the ones that are not."""
        names = self.items.table.item_ids[self._next : self._next + _SLICE]
        self._next = self._next + _SLICE if names else 0
        reads = [RowRead(CATALOGUE, name, (VERSION,)) for name in names]
        stored = await self._store.read(reads)
        await self._read(list(self._find_changed(names, stored)))

    def _find_changed(
        self, names: Sequence[str], stored: Sequence[Mapping[str, bytes | None]]
    ) -> Iterable[str]:
        for name, row in zip(names, stored, strict=True):
            try:
                place = columns.decode_pair(row[VERSION])
            except DamagedRowError:
                place = 0, -1
            if place != self._places.get(name) and not self._is_newer(name, place):
                yield name

    async def close(self) -> None:
        """Leave Kafka."""
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)


def _as_bytes(part: str | bytes | None) -> bytes | None:
    return part.encode() if isinstance(part, str) else part
