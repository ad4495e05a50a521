"""Rows as columns of the store, and back. A column's bytes are Feast's own `Value` message.

Two steps: a row becomes values by column (plain Python, which Feast's own interface takes as well),
and values become bytes by the type that the table gives each column.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from struct import pack
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from headwater_client.decoders import convert, get_json_decoder
from headwater_client.events import Item

from features.feast_import import DoubleList, Int64List, StringList, Value
from features.person_merges import decode_merges, encode_merges
from features.rows import ItemGroup, UserRow, empty_group, empty_user
from features.schema import FeatureSchema, Float64Array
from features.store import ATTRIBUTES, CATALOGUE, TRENDING, USERS, VERSION, ColumnType, StoreTable
from features.topics import Hash, hash64


class DamagedRowError(ValueError):
    """What a row holds is not what any release wrote: it cannot be read, or does not fit together.

    A flipped bit, or a plain `feast push` over it. Who needs the row begins it anew
    (`features.store.set_aside`).
    """


Columns = dict[str, bytes]
Stored = Mapping[str, bytes | None]
Values = Mapping[str, Any]
AttributeValue = str | int | float | bool | None
Place = tuple[int, int]


@dataclass(frozen=True)
class TrendList:
    """The most popular items of one source.

    `counts`: float64[items, 1 + item_half_lives], each row [reference ms, values...].
    """

    item_ids: list[str]
    counts: Float64Array


# Most items have no attributes: they share this, as a worker may keep a million entries.
_NO_ATTRIBUTES: Mapping[str, AttributeValue] = MappingProxyType({})


_ATTRIBUTES = get_json_decoder(dict[str, AttributeValue])


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What serving needs of an item; without a row it is taken for available."""

    category_hashes: tuple[Hash, ...] = ()
    available: bool = True
    attributes: Mapping[str, AttributeValue] = field(default_factory=lambda: _NO_ATTRIBUTES)


# The columns that a `CatalogueEntry` is read from; and all that filters ask for.
ENTRY_COLUMNS = ("category", "available", "attributes")
ITEM_COLUMNS = ("title", "brand", "price", *ENTRY_COLUMNS, VERSION)


def encode_columns(table: StoreTable, values: Values) -> Columns:
    """The bytes of a table's columns; None is a column without a value."""
    return {name: _ENCODERS[table.types[name]](value) for name, value in values.items()}


def decode_columns(table: StoreTable, stored: Stored) -> dict[str, Any]:
    """What columns hold; None where nothing is stored or the column has no value."""
    return {
        name: None if column is None else _DECODERS[table.types[name]](column)
        for name, column in stored.items()
    }


def user_values(row: UserRow) -> dict[str, Any]:
    """The values of table `USERS`."""
    categories = sorted(row.categories)
    # Most rows have no such column.
    merges = {} if row.merges is None else {"merges": encode_merges(row.merges)}
    return {
        "counters": list(row.counters),
        "category_hashes": categories,
        "category_counters": [v for name in categories for v in row.categories[name]],
        "history_items": row.events[2::3].tolist(),
        "history_types": row.events[1::3].tolist(),
        "history_times_ms": row.events[::3].tolist(),
        "taken": row.seen.tobytes(),
        "remembered": row.dedup_ids.tobytes(),
        **merges,
        "offsets": list(chain.from_iterable(sorted(row.offsets.items()))),
    }


def user_from_values(values: Values, schema: FeatureSchema) -> UserRow:
    """The row of what `user_values` made; an empty row where nothing is stored."""
    if (pairs := values["offsets"]) is None:
        return empty_user(schema)
    times, types = values["history_times_ms"] or (), values["history_types"] or ()
    history = zip(times, types, values["history_items"] or (), strict=True)
    size, flat = len(schema.category_half_lives), values["category_counters"] or ()
    counters, names = list(values["counters"]), values["category_hashes"] or ()
    _check(not set(types) - set(schema.event_codes), "types of events that are not known")
    _check(len(flat) == size * len(names), "counters that fit no category")
    _check(min(times, default=0) >= 0 and _are_finite(counters, flat), "odd numbers")
    # Of a type of event that was added since the row was written it has counted nothing.
    counters += [0.0] * (schema.user_counters - len(counters))
    return UserRow(
        counters=counters,
        events=array("q", chain.from_iterable(history)),
        categories={
            category: list(flat[index * size : (index + 1) * size])
            for index, category in enumerate(names)
        },
        seen=array("q", values["taken"] or b""),
        dedup_ids=array("q", values["remembered"] or b""),
        offsets=dict(zip(pairs[::2], pairs[1::2], strict=True)),
        merges=decode_merges(merges) if (merges := values.get("merges")) else None,
    )


def encode_user(row: UserRow) -> Columns:
    """The columns of a person's row."""
    return encode_columns(USERS, user_values(row))


def decode_user(stored: Stored, schema: FeatureSchema) -> UserRow:
    """The row of what `encode_user` wrote; an empty row where nothing is stored.

    Raises:
        DamagedRowError: something else is stored.
    """
    if stored[VERSION] is None:
        return empty_user(schema)
    with ReadingRow():
        return user_from_values(decode_columns(USERS, stored), schema)


def group_values(group: ItemGroup) -> list[float]:
    """A column of the popularity table: [source, offset, reference ms, values...]."""
    return [float(group.source), float(group.offset), float(group.reference_ms), *group.values]


def group_from_values(values: list[float] | None, schema: FeatureSchema) -> ItemGroup:
    """The group of what `group_values` made; an empty one where nothing is stored."""
    if not values:
        return empty_group(schema)
    source, offset, reference_ms, *counters = values
    _check(len(counters) == len(schema.item_half_lives), "counters that fit no half-lives")
    _check(reference_ms >= 0 and _are_finite(counters), "odd numbers")
    return ItemGroup(counters, int(source), int(offset), int(reference_ms))


def encode_group(group: ItemGroup) -> bytes:
    """One column of an item's popularity."""
    return _encode_doubles(group_values(group))


def decode_group(column: bytes | None, schema: FeatureSchema) -> ItemGroup:
    """The group of what `encode_group` wrote; an empty one where nothing is stored.

    Raises:
        DamagedRowError: something else is stored.
    """
    with ReadingRow():
        counts = None if column is None else _get_list(column, ColumnType.DOUBLES)
        return group_from_values(counts, schema)


def encode_item(item: Item | None, source: int, offset: int) -> Columns:
    """The columns of an item's catalogue row; None, a tombstone, leaves it not available.

    Serving reads `ENTRY_COLUMNS`; the others are there for whoever reads the store with Feast.
    """
    item = item or Item(item_id="-", available=False)
    return encode_columns(
        CATALOGUE,
        {
            "title": item.title,
            "description": item.description,
            "category": item.category,
            "brand": item.brand,
            "price": item.price,
            "attributes": msgspec.json.encode(item.attributes).decode(),
            "available": item.available,
            "offsets": (source, offset),
        },
    )


def encode_attributes(attributes: Mapping[str, AttributeValue], place: Place) -> Columns:
    """The columns of what an app knows of a person; none, after a tombstone.

    Args:
        place: source and offset of the message.
    """
    text = msgspec.json.encode(attributes).decode()
    return encode_columns(ATTRIBUTES, {"attributes": text, "offsets": place})


def decode_attributes(stored: Stored) -> Mapping[str, AttributeValue]:
    """What an app knows of a person; nothing where nothing is stored.

    Raises:
        DamagedRowError: something else than `encode_attributes` wrote is stored.
    """
    with ReadingRow():
        text = decode_columns(ATTRIBUTES, stored)["attributes"]
        return _ATTRIBUTES.decode(text) if text else _NO_ATTRIBUTES


def decode_catalogue_entry(stored: Stored) -> CatalogueEntry:
    """What serving needs of an item: of its `ENTRY_COLUMNS`.

    Raises:
        DamagedRowError: something else than `encode_item` wrote is stored.
    """
    with ReadingRow():
        values = decode_columns(CATALOGUE, stored)
        attributes = values["attributes"] or "{}"
        _check(values["available"] in (None, True, False), "no truth value")
        return CatalogueEntry(
            category_hashes=tuple(map(hash64, values["category"] or ())),
            available=values["available"] is not False,
            attributes=_ATTRIBUTES.decode(attributes) or _NO_ATTRIBUTES,
        )


def decode_catalogue_item(item_id: str, stored: Stored) -> Item | None:
    """An item as its message said it; None where there was none, or it was taken out again.

    Raises:
        DamagedRowError: something else than `encode_item` wrote is stored.
    """
    with ReadingRow():
        values = decode_columns(CATALOGUE, stored)
        del values["offsets"]
        attributes = _ATTRIBUTES.decode(values.pop("attributes") or "{}")
        described = {name: value for name, value in values.items() if value is not None}
        item = convert({**described, "item_id": item_id, "attributes": attributes}, Item)
    is_gone = item == Item(item_id=item_id, available=False)
    return None if is_gone or not described else item


def encode_trending(listed: TrendList, source: int, offset: int) -> Columns:
    """The columns of a source's list of trending items."""
    return encode_columns(
        TRENDING,
        {
            "item_ids": listed.item_ids,
            "counts": listed.counts.ravel().tolist(),
            "offsets": (source, offset),
        },
    )


def decode_trending(stored: Stored, schema: FeatureSchema) -> TrendList:
    """The list of what `encode_trending` wrote; an empty one where nothing is stored.

    Raises:
        DamagedRowError: something else is stored.
    """
    with ReadingRow():
        values = decode_columns(TRENDING, stored)
        item_ids: list[str] = values["item_ids"] or []
        counts = np.array(values["counts"] or (), np.float64)
        counts = counts.reshape(len(item_ids), 1 + len(schema.item_half_lives))
        _check(bool(np.isfinite(counts).all()), "odd numbers")
        return TrendList(item_ids, counts)


def decode_pair(column: bytes | None) -> tuple[int, int]:
    """(source, offset) of an `offsets` column with one pair; (0, -1) where nothing is stored.

    Raises:
        DamagedRowError: something else is stored.
    """
    if column is None:
        return 0, -1
    with ReadingRow():
        source, offset = _get_list(column, ColumnType.INT64S)
        return source, offset


class ReadingRow:
    """A block in which any failure says that the row is damaged."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            raise DamagedRowError(f"{type(error).__name__}: {error}"[:200]) from error


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _are_finite(*numbers: Iterable[float]) -> bool:
    return math.isfinite(sum(map(sum, numbers)))


def _serialize(value: Value) -> bytes:
    serialized: bytes = value.SerializeToString()
    return serialized


def _wrap(tag: bytes, content: bytes) -> bytes:
    """A field of a protobuf message: its tag, the length of its content, the content.

    What `SerializeToString` of a whole `Value` gives, in half the time: most of a row is lists.
    """
    size = len(content)
    if size < 1 << 7:
        return b"%b%c%b" % (tag, size, content)
    length = bytearray()
    while size >= 1 << 7:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"%b%b%b" % (tag, bytes(length), content)


def _tag(message: Any, field: str) -> bytes:
    """What begins a field that has a length, in a message of this type."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_IN_DOUBLES = _tag(DoubleList, "val")
_DOUBLES, _INT64S, _BYTES = (
    _tag(Value, name) for name in ("double_list_val", "int64_list_val", "bytes_val")
)


def _encode_doubles(values: Any) -> bytes:
    packed = pack(f"<{len(values)}d", *values)
    return _wrap(_DOUBLES, packed and _wrap(_IN_DOUBLES, packed))


def _encode_int64s(values: Any) -> bytes:
    return _wrap(_INT64S, Int64List(val=values).SerializeToString())


def _encode_bytes(value: bytes | None) -> bytes:
    return b"" if value is None else _wrap(_BYTES, value)


def _encode_strings(values: Any) -> bytes:
    return _serialize(Value(string_list_val=StringList(val=values)))


def _encode_scalar(field: str) -> Callable[[Any], bytes]:
    return lambda value: _serialize(Value() if value is None else Value(**{field: value}))


def _get_value(column: bytes, kind: ColumnType) -> Any:
    """The field of a column's `Value`; None where it has none. Another type's is no empty list."""
    value, wanted = Value.FromString(column), _FIELDS[kind]
    found = value.WhichOneof("val")
    _check(found in (None, wanted), f"{found}, not {wanted}")
    return None if found is None else getattr(value, wanted)


def _get_list(column: bytes, kind: ColumnType) -> list[Any]:
    found = _get_value(column, kind)
    return [] if found is None else list(found.val)


_FIELDS = {kind: f"{kind}_val" for kind in ColumnType}
_LISTS = (ColumnType.DOUBLES, ColumnType.INT64S, ColumnType.STRINGS)
_SCALARS = (
    ColumnType.BOOL,
    ColumnType.BYTES,
    ColumnType.DOUBLE,
    ColumnType.INT64,
    ColumnType.STRING,
)
_ENCODERS: dict[ColumnType, Callable[[Any], bytes]] = {
    ColumnType.DOUBLES: _encode_doubles,
    ColumnType.INT64S: _encode_int64s,
    ColumnType.STRINGS: _encode_strings,
    **{kind: _encode_scalar(_FIELDS[kind]) for kind in _SCALARS},
    ColumnType.BYTES: _encode_bytes,
}
_DECODERS: dict[ColumnType, Callable[[bytes], Any]] = {
    **{kind: partial(_get_list, kind=kind) for kind in _LISTS},
    **{kind: partial(_get_value, kind=kind) for kind in _SCALARS},
}
