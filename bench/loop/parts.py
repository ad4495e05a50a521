"""The parts of the loop, each measured alone: the work itself, without what joins it.

One process does a batch's steps one after the other, on the real servers and rows, with nothing
else at work. Where all share one core, the time that passes is the CPU time of whoever works:
of this process, of the store, of Triton, of Kafka.

Run by `bench.loop`: python -m bench.loop.parts VERSION VOCABULARY BATCH EVENTS DATA ORDER.
Prints JSON.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Recommendation, RecommendedItem, decode, encode
from msgspec.structs import replace

from bench.harness.load import Order, generate_workload
from deploy.settings import Settings, load_settings
from features import columns, inputs
from features.kafka import ensure_topics
from features.rows import ItemGroup, UserRow, apply_event, apply_item_event, observation
from features.schema import FeatureSchema, Vocabulary, read_vocabulary
from features.store import USERS, VERSION, RowRead, RowWrite, popularity_table
from features.store.redis import RedisRowStore
from features.topics import hash64, source_hash
from stream.catalogue import catalogue_read
from stream.inference import InferenceClient, InferenceRequest
from stream.pipeline import RecommendationProducer
from stream.ranking import available_items, rank
from stream.recommendations import recommendation_id
from stream.row_updates import ItemGroupKey
from stream.trending import TrendingIndex, TrendingSource
from trainer.datasets import DataSource, load_log
from trainer.progress import Stopwatch

_MICROSECONDS = 1e6
# Offsets beyond any that the topics have: the rows take the events for new.
_BEYOND = 1 << 40
_WARM_UP_BATCHES = 3
_READ_S = 5.0


@dataclass
class PartTimes:
    """Seconds by part, one number a batch."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of a batch."""
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def microseconds(self, batch: int) -> dict[str, float]:
        """Microseconds an event, by part: of the median batch, the first ones left out."""
        return {
            name: _MICROSECONDS * statistics.median(taken[_WARM_UP_BATCHES:]) / batch
            for name, taken in self.seconds.items()
        }


@dataclass
class LoadedRows:
    """Rows at hand, and the bytes of their version columns as the store holds them."""

    users: dict[str, UserRow]
    groups: dict[ItemGroupKey, ItemGroup]
    categories: dict[str, tuple[int, ...]]
    versions: dict[str | ItemGroupKey, bytes | None]


@dataclass(frozen=True)
class PlacedEvent:
    """An event and where it stands."""

    event: Interaction
    column: str
    source: int
    offset: int


class LoopParts:
    """Measures the parts on running servers that nothing else uses."""

    def __init__(self, settings: Settings, version: int, vocabulary: Vocabulary) -> None:
        self._settings = settings
        self._version = version
        self._vocabulary = vocabulary
        self._schema = FeatureSchema(settings.features)
        self._store = RedisRowStore(settings.store)
        self._popularity = popularity_table(settings.kafka.partitions)
        self._client = InferenceClient(
            settings.triton, inputs.model_inputs(self._schema), inputs.model_outputs(self._schema)
        )
        self._times = PartTimes()
        self._answers: list[Recommendation] = []

    async def measure(self, events: Sequence[Interaction], batch: int) -> dict[str, float]:
        """Microseconds an event, by part."""
        placed = _place(self._settings, events)
        table = await read_trending(self._settings, self._store, self._vocabulary)
        rows = await self._read_rows(placed)
        for at in range(0, len(placed) - batch + 1, batch):
            await self._measure_batch(placed[at : at + batch], rows, table)
        times = self._times.microseconds(batch) | await self._measure_kafka(events)
        await self._store.close()
        await self._client.close()
        return times

    async def _measure_batch(
        self, placed: Sequence[PlacedEvent], rows: LoadedRows, table: TrendingIndex
    ) -> None:
        self._decode(placed)
        users, groups = self._absorb(placed, rows)
        writes = self._encode(users, groups, rows)
        with self._times.part("store"):
            for each in writes:
                assert all(await self._store.write(each)), "another process writes rows"
        await self._answer(placed, {name: rows.users[name] for name in users}, table)

    def _decode(self, placed: Sequence[PlacedEvent]) -> None:
        raws = [(type(each.event), encode(each.event)) for each in placed]
        with self._times.part("decode"):
            for kind, raw in raws:
                decode(kind, raw)

    def _absorb(
        self, placed: Sequence[PlacedEvent], rows: LoadedRows
    ) -> tuple[list[str], list[ItemGroupKey]]:
        users, groups = [], []
        with self._times.part("rows"):
            for each in placed:
                event = each.event
                cell = ItemGroupKey(event.item_id, each.column)
                seen = observation(
                    event,
                    each.source,  # type: ignore[arg-type]
                    each.offset,
                    rows.categories[event.item_id],  # type: ignore[arg-type]
                )
                if apply_event(rows.users[event.user_id], seen, self._schema):
                    apply_item_event(rows.groups[cell], seen, self._schema)
                    groups.append(cell)
                users.append(event.user_id)
            users, groups = list(dict.fromkeys(users)), list(dict.fromkeys(groups))
        return users, groups

    def _encode(
        self, users: Sequence[str], groups: Sequence[ItemGroupKey], rows: LoadedRows
    ) -> tuple[list[RowWrite], list[RowWrite]]:
        with self._times.part("columns"):
            encoded_groups = [(cell, columns.encode_group(rows.groups[cell])) for cell in groups]
            encoded_users = [(name, columns.encode_user(rows.users[name])) for name in users]
        group_writes = [
            RowWrite(self._popularity, c.item_id, {c.column: raw}, 0, c.column, rows.versions[c])
            for c, raw in encoded_groups
        ]
        user_writes = [
            RowWrite(USERS, n, cols, rows.users[n].reference_ms, VERSION, rows.versions[n])
            for n, cols in encoded_users
        ]
        rows.versions.update(encoded_groups)
        rows.versions.update((name, cols[VERSION]) for name, cols in encoded_users)
        return group_writes, user_writes

    async def _answer(
        self, placed: Sequence[PlacedEvent], users: Mapping[str, UserRow], table: TrendingIndex
    ) -> None:
        last = {each.event.user_id: each.event for each in placed}
        times_ms = [max(last[name].timestamp, row.reference_ms) for name, row in users.items()]
        worker = self._settings.worker
        with self._times.part("tensors"):
            tensors = inputs.model_tensors(
                list(users.values()),
                times_ms,
                self._vocabulary,
                self._schema,
                candidates=table.indices[: worker.trending_candidates],
            )
        with self._times.part("model"):
            outputs, _ = await self._client.infer(InferenceRequest(self._version, tensors))
        with self._times.part("ranking"):
            ranking = rank(outputs, tensors, table, times_ms, 4 * worker.top_k)
            available = dict.fromkeys(ranking.item_ids(), True)
            answers = [
                recommendation(
                    last[name],
                    available_items(ranking.user_items(at), available, worker.top_k),
                    self._version,
                    "stable",
                )
                for at, name in enumerate(users)
            ]
        self._answers += answers

    async def _read_rows(self, placed: Sequence[PlacedEvent]) -> LoadedRows:
        users = list(dict.fromkeys(each.event.user_id for each in placed))
        cells = list(
            dict.fromkeys(ItemGroupKey(each.event.item_id, each.column) for each in placed)
        )
        items = list(dict.fromkeys(each.event.item_id for each in placed))
        found = await self._store.read([RowRead(USERS, name, USERS.columns) for name in users])
        groups = await self._store.read(
            [RowRead(self._popularity, cell.item_id, (cell.column,)) for cell in cells]
        )
        entries = await self._store.read([catalogue_read(name) for name in items])
        versions: dict[str | ItemGroupKey, bytes | None] = {
            name: stored[VERSION] for name, stored in zip(users, found, strict=True)
        }
        versions |= {cell: s[cell.column] for cell, s in zip(cells, groups, strict=True)}
        # Feast's own push, measured before, leaves empty bytes where a column has no value.
        return LoadedRows(
            {n: columns.decode_user(s, self._schema) for n, s in zip(users, found, strict=True)},
            {
                cell: columns.decode_group(stored[cell.column] or None, self._schema)
                for cell, stored in zip(cells, groups, strict=True)
            },
            {
                name: columns.decode_catalogue_entry(stored).category_hashes
                for name, stored in zip(items, entries, strict=True)
            },
            versions,
        )

    async def _measure_kafka(self, events: Sequence[Interaction]) -> dict[str, float]:
        """Producing events, sending answers and reading them: the clients and the broker."""
        kafka, number = self._settings.kafka, len(events)
        watch = Stopwatch()
        with RecommendationConsumer(kafka.client_settings) as consumer:
            sender = RecommendationProducer(kafka)
            for part in ("warm-up", "sending answers"):
                with watch.stage(part):
                    for answer in self._answers:
                        await sender.send_answer(answer)
                    await sender.flush()
            for part in ("warm-up", "reader"):
                with watch.stage(part):
                    for _ in self._answers:
                        assert consumer.receive(_READ_S) is not None
        with EventProducer(kafka.client_settings) as producer:
            for part in ("warm-up", "producer"):
                with watch.stage(part):
                    for event in events:
                        producer.send(event)
                    producer.flush()
        del watch.seconds["warm-up"]
        return {name: _MICROSECONDS * s / number for name, s in watch.seconds.items()}


def _place(settings: Settings, events: Sequence[Interaction]) -> list[PlacedEvent]:
    """The events as if they stood in their topics, after all that is there."""
    ids, partitions = ensure_topics(settings.kafka), settings.kafka.partitions
    placed = []
    for number, event in enumerate(events):
        topic = EVENT_TYPES.spec_of(event).topic
        partition = hash64(event.user_id) % partitions
        source = source_hash(ids[topic], partition)
        placed.append(PlacedEvent(event, f"{topic}_{partition}", source, _BEYOND + number))
    return placed


async def read_trending(
    settings: Settings, store: RedisRowStore, vocabulary: Vocabulary
) -> TrendingIndex:
    """What trends now."""
    schema, worker = FeatureSchema(settings.features), settings.worker
    partitions, refresh_s = settings.kafka.partitions, worker.trends_refresh_s
    lists = TrendingSource(store, schema, partitions, worker.trending_items, refresh_s)
    await lists.refresh()
    return TrendingIndex(lists.items, vocabulary)


def recommendation(
    event: Interaction, items: list[RecommendedItem], version: int, variant: str
) -> Recommendation:
    """The answer to an event, made now."""
    return Recommendation(
        recommendation_id=recommendation_id(event),
        user_id=event.user_id,
        event_id=event.event_id,
        items=items,
        model_version=str(version),
        variant=variant,
        event_time=event.timestamp,
        produced_time=int(time.time() * 1000),
        fallback=False,
    )


def main(version: str, vocabulary: str, *words: str) -> None:
    """Measure, and print microseconds an event by part."""
    batch, events, data, order = words
    settings = load_settings()
    source = DataSource(settings.local.cache_dir, Path(data) if data else None)
    chosen = islice(generate_workload(load_log(source).events, Order(order)), int(events))
    # Ids that no row remembers.
    fresh = [replace(event, event_id=f"part/{event.event_id}") for event in chosen]
    parts = LoopParts(settings, int(version), read_vocabulary(vocabulary))
    print(json.dumps(asyncio.run(parts.measure(fresh, int(batch)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
