"""A column of a table as a list of Python values.

An empty text is none. A value that cannot be read stays the text that it was: the event contract
then refuses it by name, and nothing is lost on the way.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from trainer.datasets.tables import ColumnMapping, TimeUnit

# How many of a unit make a second; the largest size of such a time before the year 5138.
PER_SECOND = {TimeUnit.SECONDS: 1, TimeUnit.MILLISECONDS: 10**3}
PER_SECOND |= {TimeUnit.MICROSECONDS: 10**6, TimeUnit.NANOSECONDS: 10**9}
LARGEST_IN_SECONDS = 1e11
# A number of seconds below this is of 1970, one of days since 1899 is of 1927 to 2173: Excel's.
SMALLEST_IN_SECONDS, FIRST_EXCEL_DAY = 1e5, 1e4
EXCEL_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001 (of any zone)
DAY_MS = 86_400_000
# Beyond what any unit can mean; times 1,000 it is still a number.
LARGEST_NUMBER = 2.0**63
# Numbers that are dates to people: 20260501, 20260501123000.
COMPACT_DATES = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
# Beside ISO 8601; where slashes part, whether days or months come first is found out.
DATE_FORMATS = (
    *("%Y/%m/%d", "%d.%m.%Y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
DAY_OR_MONTH_FIRST = ("%d/%m/%Y", "%m/%d/%Y")
TIMES_OF_DAY = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
# After so many texts that are no time the column is another one, and trying is in vain.
MAX_MISSES = 1000
SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/\d{4}")
WEEKDAY = re.compile(r"[A-Z][a-z]{2}, \d")
UTC_BEHIND = re.compile(r"^(\d.*) (?:UTC|GMT)$")
WEB_SERVER_TIME = "%d/%b/%Y:%H:%M:%S %z"

# `1.234,56`, and what a point means in it; `1,234.56`.
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+")
ANY_WITH_COMMA = re.compile(r"[+-]?\d{1,3}(\.\d{3})*(,\d+)?|[+-]?\d+(,\d+)?")
ANY_WITH_POINT = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
GROUPS_AND_POINT = re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+")
# 1,234 may be either.
UNDECIDED = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
POINT = re.compile(r"[+-]?\d*\.\d+")
NOT_A_NUMBER = "nan"
WHOLE_NUMBER = re.compile(r"(-?\d+)(\.0+)?")

Values = list[Any]


def texts(column: Any) -> Values:
    """Strings, or None; equal ones are one object, so that a long log stays small."""
    column = _drop_dictionary(column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = _write_numbers(column)
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    names = [name or None for name in encoded.dictionary.to_pylist()]
    return [None if index is None else names[index] for index in encoded.indices.to_pylist()]


def _drop_dictionary(column: Any) -> Any:
    is_dictionary = pa.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if is_dictionary else column


def _write_numbers(column: Any) -> Any:
    """Numbers as people write them: 17850 for 17850.0 and for 17850.00; none for NaN."""
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    pairs = zip(column.to_pylist(), column.cast(pa.string()).to_pylist(), strict=True)
    names = [
        None
        if value is None or not math.isfinite(value)
        else str(int(value))
        if value == int(value)
        else text
        for value, text in pairs
    ]
    return pa.chunked_array([pa.array(names, pa.string())])


def ids(column: Any) -> Values:
    """`texts` without blanks around them, and 17850 where pandas has written whole numbers so.

    >>> ids(pa.chunked_array([["17850.0", " 007", None]]))
    ['17850', '007', None]
    >>> ids(pa.chunked_array([["1.0", "NaN"]])), ids(pa.chunked_array([["1.0", "v2.0"]]))
    (['1', None], ['1.0', 'v2.0'])
    """
    found = texts(column)
    bare = {name: name.strip() or None for name in set(found) if name}
    found = [name and bare[name] for name in found]
    # A person may be called Nan, but not among numbers.
    distinct = {
        name: WHOLE_NUMBER.fullmatch(name)
        for name in set(found)
        if name and name.casefold() != NOT_A_NUMBER
    }
    if not all(distinct.values()) or not any(match and match[2] for match in distinct.values()):
        return found
    whole = {name: match[1] for name, match in distinct.items() if match}
    return [name and whole.get(name) for name in found]


def numbers(column: Any, decimal: str | None = None) -> Values:
    """Integers and floats, None for none and for NaN, text for what is no finite number.

    Args:
        decimal: a point or a comma; default: a comma where most have one. Where nothing tells what
            1,234 is, it stays a text.

    >>> numbers(pa.chunked_array([["1.5", "x", "inf", None]]))
    [1.5, 'x', 'inf', None]
    >>> numbers(pa.chunked_array([["1.234,56", "7", "0,5"]]))
    [1234.56, 7, 0.5]
    >>> numbers(pa.chunked_array([["1,234", "12.50"]])), numbers(pa.chunked_array([["1,234", "9"]]))
    ([1234, 12.5], ['1,234', 9])
    """
    column = _drop_dictionary(column)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    for kind in (pa.int64(), pa.float64()) if pa.types.is_string(column.type) else ():
        try:
            return [_parse_finite(value) for value in column.cast(kind).to_pylist()]
        except pa.ArrowInvalid:
            continue
    values = column.to_pylist()
    write = _with_point(values, decimal) if pa.types.is_string(column.type) else None
    return [_parse_finite(_parse_number(write(value) if write else value)) for value in values]


def _with_point(values: Values, decimal: str | None) -> Callable[[Any], Any]:
    """How a number of the column is written for Python."""
    if decimal is None:
        decimal = _find_decimal([value for value in values if value])
    form = {",": ANY_WITH_COMMA, ".": ANY_WITH_POINT, None: GROUPS_AND_POINT}[decimal]

    def write(value: Any) -> Any:
        if not value or not form.fullmatch(value):
            return value
        if decimal == ",":
            return value.replace(".", "").replace(",", ".")
        return value.replace(",", "")

    return write


def _find_decimal(values: Sequence[str]) -> str | None:
    """A comma or a point, as most of those have it that can be read in one way only."""
    commas = sum(
        bool(DECIMAL_COMMA.fullmatch(each) and not UNDECIDED.fullmatch(each)) for each in values
    )
    points = sum(bool(POINT.fullmatch(each) or GROUPS_AND_POINT.fullmatch(each)) for each in values)
    if commas > points:
        return ","
    return "." if points else None


def integers(column: Any, decimal: str | None = None) -> Values:
    """`numbers`, with 2.0 as 2."""
    return [_to_integer(value) for value in numbers(column, decimal)]


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
    column = _drop_dictionary(column)
    if pa.types.is_temporal(column.type):
        return _milliseconds(
            _to_utc(column.cast(_stamp_type(column), safe=False), mapping.time_zone)
        )
    if mapping.time_format:
        return _parse_with_format(column.cast(pa.string()), mapping)
    values = integers(column)
    if not any(isinstance(value, int | float) for value in values):
        return _parse_dates(column, values, mapping.time_zone)
    if mapping.time_unit is TimeUnit.AUTO and (written := _compact_format(values)):
        column = pa.chunked_array([[None if value is None else str(value) for value in values]])
        return _parse_with_format(column, mapping.model_copy(update={"time_format": written}))
    return _parse_texts(_epoch_ms(values, mapping), ZoneInfo(mapping.time_zone))


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


def _compact_format(values: Values) -> str | None:
    """How most of the numbers are written, where they are dates to people; else None."""
    present = [value for value in values if isinstance(value, int)]
    lengths = Counter(len(str(value)) for value in present)
    for length, written in COMPACT_DATES.items():
        if 2 * lengths[length] > len(present) and _are_dates(present, length, written):
            return written
    return None


def _are_dates(values: Sequence[int], length: int, written: str) -> bool:
    texts_of_it = [str(value) for value in values if len(str(value)) == length]
    stamps = pc.strptime(pa.array(texts_of_it), format=written, unit="s", error_is_null=True)
    years = pc.year(stamps)
    plausible = pc.and_(pc.greater_equal(years, 1970), pc.less(years, 2100))
    return 2 * (pc.sum(plausible).as_py() or 0) > len(texts_of_it)


def _parse_dates(column: Any, values: Values, zone: str) -> Values:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return _milliseconds(_to_utc(column.cast(kind), zone))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return _parse_texts(values, ZoneInfo(zone))


def _parse_texts(values: Values, zone: ZoneInfo) -> Values:
    """The values, dates among them as milliseconds; each text is read once."""
    distinct = {value for value in values if isinstance(value, str)}
    parser = _DateParser(_slashes(distinct), zone)
    read = {text: parser.parse(text) for text in distinct}
    return [read[value] if isinstance(value, str) else value for value in values]


def _slashes(texts_of_it: Collection[str]) -> Sequence[str]:
    """The format of 24/12/2026 or of 12/24/2026, where some value can be read in one way only."""
    parts = [match for each in texts_of_it if (match := SLASHES.match(each))]
    day_first, month_first = (any(int(match[n]) > 12 for match in parts) for n in (1, 2))
    if day_first == month_first:
        return ()
    return DAY_OR_MONTH_FIRST[:1] if day_first else DAY_OR_MONTH_FIRST[1:]


class _DateParser:
    """Reads dates of any form, that of the last one first."""

    def __init__(self, slashes: Sequence[str], zone: ZoneInfo) -> None:
        written = [f"{day}{time}" for day in (*DATE_FORMATS, *slashes) for time in TIMES_OF_DAY]
        self._zone = zone
        self._misses = 0
        self._forms: list[Callable[[str], datetime]] = [
            datetime.fromisoformat,
            _parse_mail_date,
            *(_with_format(each) for each in (*written, WEB_SERVER_TIME)),
        ]

    def parse(self, text: str) -> int | str:
        """Milliseconds UTC; the text where it is none."""
        plain = UTC_BEHIND.sub(r"\1+00:00", text.strip())
        for number, parse in enumerate(self._forms[: 1 if self._misses > MAX_MISSES else None]):
            try:
                date = parse(plain)
                time_s = (date if date.tzinfo else date.replace(tzinfo=self._zone)).timestamp()
            except (ValueError, OverflowError):
                continue
            self._forms.insert(0, self._forms.pop(number))
            return math.floor(time_s * 1000)
        self._misses += 1
        return text


def _with_format(written: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, written)  # noqa: DTZ007 (the zone comes later)


def _parse_mail_date(text: str) -> datetime:
    """`Fri, 01 May 2026 12:00:00 GMT`."""
    if not WEEKDAY.match(text):
        raise ValueError(text)
    try:
        return parsedate_to_datetime(text)
    except (TypeError, IndexError) as error:
        raise ValueError(text) from error


def _epoch_ms(values: Values, mapping: ColumnMapping) -> Values:
    unit, zone = mapping.time_unit, ZoneInfo(mapping.time_zone)
    if unit is TimeUnit.AUTO:
        unit = _unit_by_size([value for value in values if isinstance(value, int | float)])
    return [_to_ms(value, unit, zone) for value in values]


def _to_ms(value: Any, unit: TimeUnit, zone: ZoneInfo) -> Any:
    if value is None or isinstance(value, str) or abs(value) > LARGEST_NUMBER:
        return value
    if unit is TimeUnit.EXCEL:
        return _clock_ms(value, zone)
    if isinstance(value, float):
        return math.floor(value * 1000 / PER_SECOND[unit])
    return value * 1000 // PER_SECOND[unit]


def _clock_ms(days: float, zone: ZoneInfo) -> float:
    """What a clock of a zone shows as days of a workbook."""
    try:
        clock = EXCEL_EPOCH + timedelta(milliseconds=round(days * DAY_MS))
        return math.floor(clock.replace(tzinfo=zone).timestamp() * 1000)
    except OverflowError:
        return days


def _unit_by_size(values: Sequence[float]) -> TimeUnit:
    """By the middle value, so that a few bad ones do not decide."""
    middle = abs(sorted(values)[len(values) // 2])
    if FIRST_EXCEL_DAY <= middle < SMALLEST_IN_SECONDS:
        return TimeUnit.EXCEL
    for unit, per_second in PER_SECOND.items():
        if middle < LARGEST_IN_SECONDS * per_second:
            return unit
    return TimeUnit.NANOSECONDS


def _parse_number(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    # A date, a list, bytes: the contract names it as the text that it looks like.
    text = str(value)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parse_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return None if value == "" else value


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
