"""Rows as Feast columns and back. A column's bytes are Feast's own `Value` message."""

from __future__ import annotations

from features import feast_import  # noqa: F401  (before anything of Feast)

# isort: split

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.Value_pb2 import DoubleList, Int64List, StringList, Value
from headwater_client.events import Item

from features.rows import ItemGroup, UserRow, empty_group, empty_user
from features.schema import FeatureSchema

Columns = dict[str, bytes]
Stored = Mapping[str, bytes | None]


@dataclass(frozen=True)
class TrendList:
    """The most popular items of one source.

    `counts`: float64[items, 1 + item_half_lives], each row [reference ms, values...].
    """

    item_ids: list[str]
    counts: npt.NDArray[np.float64]


# The column that a conditional write compares: every event absorbed changes it.
VERSION = "offsets"


def encode_user(row: UserRow) -> Columns:
    """The columns of view `user_activity`."""
    categories = sorted(row.categories)
    return {
        "counters": _doubles(row.counters),
        "category_hashes": _int64s(categories),
        "category_counters": _doubles([v for name in categories for v in row.categories[name]]),
        "history_items": _int64s(row.events[2::3]),
        "history_types": _int64s(row.events[1::3]),
        "history_times_ms": _int64s(row.events[::3]),
        "taken": _encoded(Value(bytes_val=row.seen.tobytes())),
        "remembered": _encoded(Value(bytes_val=row.dedup_ids.tobytes())),
        "offsets": _int64s([number for pair in sorted(row.offsets.items()) for number in pair]),
    }


def decode_user(stored: Stored, schema: FeatureSchema) -> UserRow:
    """The row of what `encode_user` wrote; an empty row where nothing is stored."""
    read = Value.FromString
    if (offsets := stored["offsets"]) is None:
        return empty_user(schema)
    pairs = read(offsets).int64_list_val.val
    history = zip(
        read(stored["history_times_ms"] or b"").int64_list_val.val,
        read(stored["history_types"] or b"").int64_list_val.val,
        read(stored["history_items"] or b"").int64_list_val.val,
        strict=True,
    )
    return UserRow(
        counters=list(read(stored["counters"] or b"").double_list_val.val),
        events=array("q", chain.from_iterable(history)),
        categories=_categories(stored, len(schema.category_half_lives)),
        seen=array("q", read(stored["taken"] or b"").bytes_val),
        dedup_ids=array("q", read(stored["remembered"] or b"").bytes_val),
        offsets=dict(zip(pairs[::2], pairs[1::2], strict=True)),
    )


def encode_group(group: ItemGroup) -> bytes:
    """One column of view `item_popularity`: [source, offset, reference ms, values...]."""
    return _doubles([group.source, group.offset, group.reference_ms, *group.values])


def decode_group(column: bytes | None, schema: FeatureSchema) -> ItemGroup:
    """The group of what `encode_group` wrote; an empty one where nothing is stored."""
    if column is None:
        return empty_group(schema)
    source, offset, reference_ms, *values = Value.FromString(column).double_list_val.val
    return ItemGroup(values, int(source), int(offset), int(reference_ms))


def encode_item(item: Item | None, source: int, offset: int) -> Columns:
    """The columns of view `item_catalogue`; None, a tombstone, leaves an item not available."""
    item = item or Item(item_id="-", available=False)
    return {
        "title": _string(item.title),
        "description": _string(item.description),
        "category": _strings(item.category),
        "brand": _string(item.brand),
        "price": _encoded(Value() if item.price is None else Value(double_val=item.price)),
        "attributes": _string(msgspec.json.encode(item.attributes).decode()),
        "available": _encoded(Value(bool_val=item.available)),
        "offsets": _int64s((source, offset)),
    }


def decode_shelf(stored: Stored) -> tuple[list[str], bool]:
    """(category, available) of an item; an item without a row is taken for available."""
    available = stored["available"]
    category = Value.FromString(stored["category"] or b"").string_list_val.val
    return list(category), available is None or Value.FromString(available).bool_val


def encode_trending(listed: TrendList, source: int, offset: int) -> Columns:
    """The columns of view `trending`: items, and each one's [reference ms, values...]."""
    return {
        "item_ids": _strings(listed.item_ids),
        "counts": _doubles(listed.counts.ravel().tolist()),
        "offsets": _int64s((source, offset)),
    }


def decode_trending(stored: Stored, schema: FeatureSchema) -> TrendList:
    """The list of what `encode_trending` wrote; an empty one where nothing is stored."""
    names = Value.FromString(stored["item_ids"] or b"").string_list_val.val
    flat = Value.FromString(stored["counts"] or b"").double_list_val.val
    counts = np.array(flat, np.float64).reshape(-1, 1 + len(schema.item_half_lives))
    return TrendList(list(names), counts)


def decode_pair(column: bytes | None) -> tuple[int, int]:
    """(source, offset) of an `offsets` column with one pair; (0, -1) where nothing is stored."""
    if column is None:
        return 0, -1
    source, offset = Value.FromString(column).int64_list_val.val
    return source, offset


def decoded(column: bytes) -> object:
    """What a column holds, as plain Python: a list, text, bytes, a number; None for nothing."""
    value = Value.FromString(column)
    if (kind := value.WhichOneof("val")) is None:
        return None
    held = getattr(value, kind)
    return list(held.val) if kind.endswith("_list_val") else held


def _categories(stored: Stored, size: int) -> dict[int, list[float]]:
    names = Value.FromString(stored["category_hashes"] or b"").int64_list_val.val
    flat = Value.FromString(stored["category_counters"] or b"").double_list_val.val
    return {name: list(flat[at * size : (at + 1) * size]) for at, name in enumerate(names)}


def _int64s(values: Iterable[int]) -> bytes:
    return _encoded(Value(int64_list_val=Int64List(val=values)))


def _doubles(values: Iterable[float]) -> bytes:
    return _encoded(Value(double_list_val=DoubleList(val=values)))


def _string(value: str) -> bytes:
    return _encoded(Value(string_val=value))


def _strings(values: Iterable[str]) -> bytes:
    return _encoded(Value(string_list_val=StringList(val=values)))


def _encoded(value: Value) -> bytes:
    encoded: bytes = value.SerializeToString()
    return encoded
