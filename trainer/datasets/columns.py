"""A column of a table as a list of Python values.

An empty text is none. A value that cannot be read stays the text that it was: the event contract
then refuses it by name, and nothing is lost on the way.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from trainer.datasets.tables import ColumnMapping, TimeUnit

# How many of a unit make a second; the largest size of such a time before the year 5138.
PER_SECOND = {TimeUnit.SECONDS: 1, TimeUnit.MILLISECONDS: 10**3}
PER_SECOND |= {TimeUnit.MICROSECONDS: 10**6, TimeUnit.NANOSECONDS: 10**9}
LARGEST_IN_SECONDS = 1e11

Values = list[Any]


def texts(column: Any) -> Values:
    """Strings, or None; equal ones are one object, so that a long log stays small."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = _cast_to_integers(column)
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    names = [name or None for name in encoded.dictionary.to_pylist()]
    return [None if index is None else names[index] for index in encoded.indices.to_pylist()]


def numbers(column: Any) -> Values:
    """Integers and floats, None for none and for NaN, text for what is no finite number.

    >>> numbers(pa.chunked_array([["1.5", "x", "inf", None]]))
    [1.5, 'x', 'inf', None]
    """
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    for kind in (pa.int64(), pa.float64()) if pa.types.is_string(column.type) else ():
        try:
            return [_parse_finite(value) for value in column.cast(kind).to_pylist()]
        except pa.ArrowInvalid:
            continue
    return [_parse_finite(_parse_number(value)) for value in column.to_pylist()]


def integers(column: Any) -> Values:
    """`numbers`, with 2.0 as 2."""
    return [_to_integer(value) for value in numbers(column)]


def lists(column: Any, separator: str) -> Values:
    """Lists of strings: of a list column, or of text cut at a separator; empty parts left out."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [
            None if value is None else [str(part) for part in value if part]
            for value in column.to_pylist()
        ]
    cut = [None if text is None else text.split(separator) for text in texts(column)]
    return [parts and [part.strip() for part in parts if part.strip()] for parts in cut]


def times_ms(column: Any, mapping: ColumnMapping) -> Values:
    """Milliseconds UTC, of numbers, dates, or text of either."""
    if pa.types.is_temporal(column.type):
        return _milliseconds(
            _to_utc(column.cast(_stamp_type(column), safe=False), mapping.time_zone)
        )
    if mapping.time_format:
        return _parse_with_format(column.cast(pa.string()), mapping)
    values = numbers(column)
    if _are_numbers(values):
        return _epoch_ms(values, mapping.time_unit)
    return _parse_dates(column, mapping.time_zone)


def _stamp_type(column: Any) -> Any:
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return pa.timestamp("us", zone)


def _to_utc(stamps: Any, zone: str) -> Any:
    if stamps.type.tz is not None or zone == "UTC":
        return stamps
    # A clock that is set back shows an hour twice, and one set forward skips one: the earlier.
    return pc.assume_timezone(stamps, zone, ambiguous="earliest", nonexistent="earliest")


def _milliseconds(stamps: Any) -> Values:
    return [
        value if value is None else value // 1000 for value in stamps.cast(pa.int64()).to_pylist()
    ]


def _parse_with_format(column: Any, mapping: ColumnMapping) -> Values:
    stamps = pc.strptime(column, format=mapping.time_format, unit="us", error_is_null=True)
    read = _milliseconds(_to_utc(stamps, mapping.time_zone))
    return [
        text if value is None else value
        for value, text in zip(read, column.to_pylist(), strict=True)
    ]


def _parse_dates(column: Any, zone: str) -> Values:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _milliseconds(_to_utc(column.cast(kind), zone))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return [_parse_date(value, ZoneInfo(zone)) for value in column.to_pylist()]


def _parse_date(value: Any, zone: ZoneInfo) -> Any:
    try:
        date = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return math.floor((date if date.tzinfo else date.replace(tzinfo=zone)).timestamp() * 1000)


def _are_numbers(values: Values) -> bool:
    """Whether most of a column are numbers: a few bad rows do not make it one of dates."""
    present = [value for value in values if value is not None]
    found = sum(not isinstance(value, str) for value in present)
    return found > 0 and 2 * found >= len(present)


def _epoch_ms(values: Values, unit: TimeUnit) -> Values:
    if unit is TimeUnit.AUTO:
        unit = _unit_by_size([value for value in values if isinstance(value, int | float)])
    per_second = PER_SECOND[unit]
    return [
        value
        if value is None or isinstance(value, str)
        else math.floor(value * 1000 / per_second)
        if isinstance(value, float)
        else value * 1000 // per_second
        for value in values
    ]


def _unit_by_size(values: Sequence[float]) -> TimeUnit:
    """By the middle value, so that a few bad ones do not decide."""
    middle = abs(sorted(values)[len(values) // 2])
    for unit, per_second in PER_SECOND.items():
        if middle < LARGEST_IN_SECONDS * per_second:
            return unit
    return TimeUnit.NANOSECONDS


def _parse_number(value: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def _parse_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return None if value == "" else value


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _cast_to_integers(column: Any) -> Any:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column
