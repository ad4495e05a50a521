"""Loads a log of the past into an empty feature store: the rows that the stream would have made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features import columns
from features.columns import VERSION, TrendList
from features.errors import ServerError
from features.events import Click, Item, Purchase
from features.repo.definitions import LOADED
from features.rows import (
    ItemGroup,
    Layout,
    UserRow,
    absorb,
    absorb_item,
    empty_group,
    empty_user,
    observed,
)
from features.store import TRENDING, USERS, RowStore, Table, Write
from features.topics import CLICKS, PURCHASES, hash64, source_hash
from stream.trending import updated

_WRITES_AT_ONCE = 500


@dataclass
class Past:
    """The rows of a log: people by user_id, items by item_id and column."""

    users: dict[str, UserRow] = field(default_factory=dict)
    groups: dict[tuple[str, str], ItemGroup] = field(default_factory=dict)


def past_rows(events: Sequence[Click | Purchase], items: Sequence[Item], layout: Layout) -> Past:
    """The rows that these events make, by the same functions as the stream's."""
    categories = {item.item_id: tuple(map(hash64, item.category)) for item in items}
    past = Past()
    for offset, event in enumerate(events):
        column = f"{PURCHASES if isinstance(event, Purchase) else CLICKS}_{LOADED}"
        source = source_hash(column, 0)
        seen = observed(event, source, offset, categories.get(event.item_id, ()))
        row = past.users.setdefault(event.user_id, empty_user(layout))
        if absorb(row, seen, layout):
            group = past.groups.setdefault((event.item_id, column), empty_group(layout))
            absorb_item(group, seen, layout)
    return past


async def load(
    past: Past, store: RowStore, popularity: Table, trending_items: int, layout: Layout
) -> int:
    """Write the rows of the past where there are none yet.

    Returns:
        How many rows were written.

    Raises:
        ServerError: the store does not answer, or has one of the rows already.
    """
    writes = list(_writes(past, popularity, trending_items, layout))
    for start in range(0, len(writes), _WRITES_AT_ONCE):
        if not all(await store.write(writes[start : start + _WRITES_AT_ONCE])):
            raise ServerError("the store has rows already: the past is loaded into an empty store")
    return len(writes)


def _writes(past: Past, popularity: Table, trending_items: int, layout: Layout) -> Iterator[Write]:
    lists: dict[str, dict[str, ItemGroup]] = {}
    for (item_id, column), group in past.groups.items():
        encoded = {column: columns.encode_group(group)}
        yield Write(popularity, item_id, encoded, group.reference_ms, column, None)
        lists.setdefault(column, {})[item_id] = group
    for user_id, row in past.users.items():
        yield Write(USERS, user_id, columns.encode_user(row), row.reference_ms, VERSION, None)
    for column, groups in lists.items():
        yield _trending(column, groups, trending_items, layout)


def _trending(column: str, groups: Mapping[str, ItemGroup], limit: int, layout: Layout) -> Write:
    nothing = TrendList([], np.zeros((0, 1 + len(layout.item_half_lives))))
    newest = max(groups.values(), key=lambda group: group.offset)
    listed = updated(nothing, groups, limit, layout)
    encoded = columns.encode_trending(listed, newest.source, newest.offset)
    return Write(TRENDING, column, encoded, newest.reference_ms, VERSION, None)
