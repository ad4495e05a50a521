"""What lists, rows, events and items say, as a page shows it: with titles, and with reasons."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from headwater_client import EVENT_TYPES, RecommendedItem
from headwater_client.admin import people
from msgspec.structs import replace

from deploy.jobs.person_log import LoggedRecommendation, Record
from features import columns, decay, store
from features.events import current_ms
from features.rows import ItemGroup, UserRow
from features.rules.table import CatalogueTable
from features.schema import FeatureSchema
from features.settings import DAY_MS
from features.topics import Hash, hash64
from stream.identities import IdentityRecord
from stream.recommendations import RankedLists
from stream.routing import Routes

ItemCounts = Mapping[str, list[float]]
"""By type of event, float[item_half_lives]; the last is the plain count."""


async def read_counts(
    rows: store.RowStore,
    schema: FeatureSchema,
    partitions: int,
    item_ids: Sequence[str],
    time_ms: int,
) -> dict[str, ItemCounts]:
    """The counts of items as of a time, by item; types that have counted nothing are left out.

    Args:
        rows: where they are.
        partitions: of the topics of events.

    Raises:
        ServerError: the store does not answer.
    """
    table = store.popularity_table(partitions)
    reads = [store.RowRead(table, name, table.columns) for name in item_ids]
    found: dict[str, ItemCounts] = {}
    for read, stored in zip(reads, await rows.read(reads), strict=True):
        groups = {}
        for column, value in stored.items():
            if value is not None:
                # A damaged one waits for its next event.
                with suppress(columns.DamagedRowError):
                    groups[column] = columns.decode_group(value, schema)
        found[read.entity_id] = _sum_groups(groups, schema, time_ms)
    return found


def _sum_groups(
    groups: Mapping[str, ItemGroup], schema: FeatureSchema, time_ms: int
) -> dict[str, list[float]]:
    total: dict[str, list[float]] = {}
    for column, group in groups.items():
        kind = EVENT_TYPES.spec_of_topic(column.rpartition("_")[0]).name
        values = decay.read(group.values, group.reference_ms, time_ms, schema.item_half_lives)
        have = total.get(kind, [0.0] * len(values))
        total[kind] = [one + other for one, other in zip(have, values, strict=True)]
    return total


def rate_per_day(count: float, half_life_ms: float) -> float:
    """The rate at which a decayed count stays where it is.

    A count that decays by ln 2 / half-life, and to which r is added in a time, rests at r divided
    by that.

    >>> round(rate_per_day(100.0, 86_400_000), 2)
    69.31
    """
    return count * math.log(2) * DAY_MS / half_life_ms


class CatalogueNames:
    """What items and categories are called, as far as this process knows the catalogue.

    Args:
        table: the catalogue.
        routes: whose vocabularies know items that the catalogue does not.
    """

    def __init__(self, table: CatalogueTable, routes: Routes) -> None:
        self._table = table
        self._routes = routes
        self._categories: dict[Hash, str] = {}
        self._seen_values = 0

    def title(self, item_id: str) -> str:
        """The title of an item; "" where it has none."""
        row, column = self._table.row_of(item_id), self._table.find_column("title")
        if row < 0 or column is None:
            return ""
        title = column.values[column.codes[row]]
        return title if isinstance(title, str) else ""

    def item(self, item: int) -> str:
        """The id of an item by its hash; "" where nobody knows it."""
        for row in self._table.rows_of_hashes([item]).tolist():
            return str(self._table.item_ids[row])
        for route in self._routes.answering:
            (index,) = route.vocabulary.indices(np.array([item], np.int64)).tolist()
            if name := route.vocabulary.item_ids[index]:
                return str(name)
        return ""

    def category(self, category: int) -> str:
        """A category by its hash; "" where the catalogue has it no more."""
        column = self._table.find_column("category")
        if column is not None and len(column.values) != self._seen_values:
            self._seen_values = len(column.values)
            texts = {text for value in column.values if isinstance(value, tuple) for text in value}
            self._categories = {hash64(text): text for text in texts}
        return self._categories.get(Hash(category), "")

    def explain(self, item: RecommendedItem) -> people.ExplainedItem:
        """A place of a list."""
        return people.ExplainedItem(
            item_id=item.item_id,
            title=self.title(item.item_id),
            score=item.score,
            reason=item.reason,
            reason_title=self.title(item.reason.item_id or ""),
            parts=item.parts,
            placed_by=item.placed_by,
            label=item.label,
        )

    def describe_asked(self, lists: RankedLists, time_ms: int) -> people.AskedList:
        """A list that was made to be looked at, as of a time."""
        (items,) = lists.items
        return people.AskedList(
            time=time_ms,
            items=[self.explain(item) for item in items],
            model_version=lists.model_version,
            variant=lists.variant,
            fallback=lists.fallback,
            failed=lists.failed,
            missing=max(0, lists.top_k - len(items)),
        )

    def describe_sent(self, logged: LoggedRecommendation) -> people.SentList:
        """A list as the log has it."""
        told = logged.told
        event = ""
        if told.topic:
            event = f"{told.topic}/{told.partition}/{told.offset}"
        return people.SentList(
            recommendation_id=told.recommendation_id,
            place=f"{logged.topic}/{logged.partition}/{logged.offset}",
            time=logged.time_ms,
            produced_time=told.produced_time,
            items=[self.explain(item) for item in told.items],
            model_version=told.model_version,
            variant=told.variant,
            fallback=told.fallback,
            event=event,
            event_id=told.event_id,
            event_time=told.event_time,
            sequence=told.sequence,
            failed=told.failed,
            missing=told.missing,
            rollout_id=told.rollout_id,
            placement=told.placement,
            placement_revision=told.placement_revision,
        )

    def describe_record(self, record: Record) -> people.HistoryEvent:
        """What the log says that somebody did, or who they are."""
        event = record.event
        if event is None:
            assert isinstance(record, IdentityRecord)
            kind = str(record.message.__struct_config__.tag)
            return people.HistoryEvent(type=kind, timestamp=record.arrived_ms)
        return people.HistoryEvent(
            type=EVENT_TYPES.spec_of(event).name,
            timestamp=event.timestamp,
            item_id=event.item_id,
            title=self.title(event.item_id),
            place=place_of(record),
            event_id=event.event_id,
            arrived=record.arrived_ms,
        )

    def describe_history(self, row: UserRow) -> list[people.HistoryEvent]:
        """What the model reads of a row, the newest first."""
        types = {spec.code: name for name, spec in EVENT_TYPES.items()}
        return [
            people.HistoryEvent(
                type=types[code],
                timestamp=time_ms,
                item_id=(name := self.item(item)),
                title=self.title(name),
            )
            for time_ms, code, item in reversed(row.history)
        ]

    def describe_categories(
        self, row: UserRow, schema: FeatureSchema, time_ms: int
    ) -> list[people.CategoryCounters]:
        """What a person takes to, as of a time: the most of it first."""
        lives = schema.category_half_lives
        found = [
            people.CategoryCounters(
                category=self.category(category),
                counters=dict(
                    zip(
                        map(_name_life, lives),
                        decay.read(values, row.reference_ms, time_ms, lives),
                        strict=True,
                    )
                ),
            )
            for category, values in row.categories.items()
        ]
        return sorted(found, key=lambda each: -max(each.counters.values(), default=0.0))


def place_of(record: Record) -> str:
    """Where an event stands: TOPIC/PARTITION/OFFSET; "" of what has no place that can be named."""
    topic, _, partition = getattr(record, "column", "").rpartition("_")
    return f"{topic}/{partition}/{record.offset}" if topic else ""


def describe_counters(
    row: UserRow, schema: FeatureSchema, time_ms: int | None = None
) -> dict[str, dict[str, float]]:
    """A row's counters as of a time, by type of event and half-life; `all` is the plain count."""
    lives = schema.user_half_lives
    at_ms = current_ms() if time_ms is None else time_ms
    values = decay.read(row.counters, row.reference_ms, at_ms, lives)
    names = [*map(_name_life, lives)]
    return {
        kind: dict(zip(names, values[at * len(lives) : (at + 1) * len(lives)], strict=True))
        for at, kind in enumerate(schema.event_types)
    }


def _name_life(half_life_ms: float) -> str:
    return "all" if half_life_ms == float("inf") else str(int(half_life_ms))


def describe_offsets(row: UserRow, sources: Mapping[tuple[str, int], Hash]) -> dict[str, int]:
    """How much of the log a row knows, by TOPIC/PARTITION."""
    return {
        f"{topic}/{number}": row.offsets[source]
        for (topic, number), source in sources.items()
        if source in row.offsets
    }


def find_moves(before: people.AskedList, after: people.AskedList) -> list[people.ItemMove]:
    """Where each item stands in two lists; those of the second first."""

    def find_places(found: people.AskedList) -> dict[str, tuple[int, people.ExplainedItem]]:
        return {item.item_id: (place, item) for place, item in enumerate(found.items, 1)}

    old, new = find_places(before), find_places(after)
    moves = []
    for name in [*new, *(name for name in old if name not in new)]:
        was, would = old.get(name), new.get(name)
        moves.append(
            people.ItemMove(
                item_id=name,
                title=(would or old[name])[1].title,
                place_before=was[0] if was else None,
                place_after=would[0] if would else None,
                score_before=was[1].score if was else None,
                score_after=would[1].score if would else None,
            )
        )
    return moves


def mask_events(events: Sequence[people.HistoryEvent]) -> list[people.HistoryEvent]:
    """The events without their ids, which may tell whose they are."""
    return [replace(event, event_id="") for event in events]
