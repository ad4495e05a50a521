"""What a log holds, and what looks wrong in it: said before anything is learned from it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from headwater_client.documents import read_json
from headwater_client.event_types import EVENT_TYPES

from features.settings import DAY_MS, EventSettings
from trainer.datasets.delimited import OPEN_QUOTE
from trainer.datasets.log import Log, item_texts
from trainer.datasets.records import STANDS_FOR_NOBODY, RefusedRecord, RowCounts

UNREAD_TIMES = ("timestamp: Expected `int`, got `str`",)
UNREAD = ("price: Expected `float | null`, got", "quantity: Expected `int | null`, got", "rating: ")
NO_PERSON = ("user_id: is required", f"user_id: {STANDS_FOR_NOBODY}")

# Of all events, what one person's, or one item's, may be before it looks like a machine's.
LARGE_SHARE_OF_A_PERSON, LARGE_SHARE_OF_AN_ITEM = 0.05, 0.2
# That is nothing in a log of few people: so it must be as many times what the others have, too.
TIMES_THE_OTHERS = 10
FEWEST_EVENTS = 20
MOST = 0.95
# Times of a shop's log are after this; 1995-01-01.
FIRST_PLAUSIBLE_MS = 788_918_400_000
QUARTER_OF_AN_HOUR_MS = 900_000
ZERO = re.compile(r"0+(\.0+)?")
# 4710199010372 as a workbook shows it: other ids look the same.
ROUNDED_ID = re.compile(r"\d([.,]\d+)?[eE]\+\d+")


@dataclass(frozen=True)
class LogWarning:
    """Something of a log that looks wrong.

    Attributes:
        count: rows, events or items that are so.
        text: what it is, what comes of it, and what to do.
    """

    name: str
    count: int
    text: str


@dataclass(frozen=True)
class LogSummary:
    """What a log holds.

    Attributes:
        counts: what became of its rows.
        types: events by type.
        refused: rows by reason.
        refused_items: what rows of events say of their items, and is refused; their events count.
        first_ms, last_ms: the times of the first and the last event; None without one.
        passed_over: files of the folder that were not read.
    """

    counts: RowCounts
    types: Mapping[str, int]
    people: int
    items: int
    first_ms: int | None
    last_ms: int | None
    refused: Mapping[str, int]
    refused_items: Mapping[str, int]
    warnings: Sequence[LogWarning]
    passed_over: Sequence[str] = ()

    @property
    def events(self) -> int:
        """Events of all types."""
        return sum(self.types.values())


def summarise_log(log: Log, settings: EventSettings) -> LogSummary:
    """What a log holds, and what looks wrong in it."""
    types = Counter(EVENT_TYPES.spec_of(event).name for event in log.events)
    items = {event.item_id for event in log.events} | {item.item_id for item in log.items}
    return LogSummary(
        counts=log.counts,
        types=types,
        people=len({event.user_id for event in log.events}),
        items=len(items),
        first_ms=log.events[0].timestamp if log.events else None,
        last_ms=log.events[-1].timestamp if log.events else None,
        refused=_count_reasons(row.kind for row in log.refused if row.is_counted),
        refused_items=_count_reasons(row.kind for row in log.refused if not row.is_counted),
        warnings=_find_warnings(log, settings),
        passed_over=log.passed_over,
    )


def _count_reasons(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(kinds).most_common())


def _find_warnings(log: Log, settings: EventSettings) -> list[LogWarning]:
    found = [
        *_check_ids(log, settings),
        *_check_repeats(log),
        *_check_times(log),
        *_check_refusals(log),
        *_check_items(log),
    ]
    return [warning for warning in found if warning.count]


def _check_ids(log: Log, settings: EventSettings) -> list[LogWarning]:
    people = Counter(event.user_id for event in log.events)
    items = Counter(event.item_id for event in log.events)
    person, by_person = _outlier(people, LARGE_SHARE_OF_A_PERSON)
    item, of_item = _outlier(items, LARGE_SHARE_OF_AN_ITEM)
    zeros = sum(count for name, count in people.items() if ZERO.fullmatch(name))
    without = sum(row.kind in NO_PERSON for row in log.refused)
    placeholders = {name: count for name, count in items.items() if settings.is_nobody(name)}
    rounded = sum(
        count for ids in (people, items) for name, count in ids.items() if ROUNDED_ID.match(name)
    )
    return [
        LogWarning(
            "person_with_a_large_share",
            by_person,
            f"person {person!r} has {by_person:,} of {len(log.events):,} events: a machine, or all "
            "who are not known; if so, add it to events.nobody",
        ),
        LogWarning(
            "item_with_a_large_share",
            of_item,
            f"item {item!r} has {of_item:,} of {len(log.events):,} events: a page that is no item, "
            "or a machine's doing",
        ),
        LogWarning(
            "nobody",
            without + zeros,
            f"rows whose person is nobody: {without:,} without an id or of events.nobody are "
            f"refused; {zeros:,} of person '0' count: if that is nobody, add it to events.nobody",
        ),
        LogWarning(
            "no_item",
            sum(placeholders.values()),
            f"events whose item stands for none: {', '.join(map(repr, placeholders))}",
        ),
        LogWarning(
            "rounded_ids",
            rounded,
            "ids such as 4.7E+12, which a workbook has rounded: different ones look the same; "
            "export the table as text",
        ),
    ]


def _outlier(counts: Counter[str], share: float) -> tuple[str, int]:
    """The id that has most events, and how many; "" and 0 where that is nothing remarkable."""
    if not counts:
        return "", 0
    [(name, most)] = counts.most_common(1)
    rest = counts.total() - most
    others = rest / (len(counts) - 1) if len(counts) > 1 else 0.0
    is_large = most >= max(FEWEST_EVENTS, share * counts.total(), TIMES_THE_OTHERS * others)
    return (name, most) if is_large else ("", 0)


def _check_repeats(log: Log) -> list[LogWarning]:
    ids = Counter((type(event), event.user_id, event.event_id) for event in log.events)
    said = Counter(
        (type(event), event.user_id, event.item_id, event.timestamp) for event in log.events
    )
    repeats = ids.total() - len(ids)
    return [
        LogWarning(
            "order_numbers",
            log.order_lines,
            "rows have the event id of another row of their person and say something else: the id "
            "of an order, it seems; each is counted, under an id of its own",
        ),
        LogWarning(
            "repeats",
            repeats,
            "events have the id and the content of another one, as when exports overlap: each of "
            "these counts once",
        ),
        LogWarning(
            "same_instant",
            max(0, said.total() - len(said) - repeats),
            "events have person, item, type and time of another one and an id of their own: each "
            "counts; if they are repeats, name a column that tells them apart: --map event=NAME",
        ),
    ]


def _check_times(log: Log) -> list[LogWarning]:
    ancient = sum(event.timestamp < FIRST_PLAUSIBLE_MS for event in log.events)
    days = Counter(event.timestamp % DAY_MS for event in log.events)
    # Two: midnight of summer, and of winter.
    most = days.most_common(2)
    by_day = sum(count for time, count in most if not time % QUARTER_OF_AN_HOUR_MS)
    is_by_day = len(log.events) > 1 and by_day >= MOST * len(log.events)
    return [
        LogWarning(
            "days_only",
            by_day if is_by_day else 0,
            "events have a day and no time of day: what was first within a day is not known, and "
            "all of a day count as one instant",
        ),
        LogWarning(
            "ancient",
            ancient + _count_refused(log, "timestamp: Expected `int` >="),
            f"rows are of a time before {_date(FIRST_PLAUSIBLE_MS)}: another unit, it seems: "
            "--map time_unit=s, ms, us or ns",
        ),
        LogWarning(
            "future",
            _count_refused(log, "timestamp: is in the future"),
            "rows are of a time to come, and refused: another unit, or another time zone",
        ),
    ]


def _check_refusals(log: Log) -> list[LogWarning]:
    returns = sum(_is_return(row) for row in log.refused)
    times, numbers = (
        [row for row in log.refused if row.kind.startswith(kinds)]
        for kinds in (UNREAD_TIMES, UNREAD)
    )
    return [
        LogWarning(
            "times_not_read",
            len(times),
            f"rows have a time that is not understood{_show_example(times)}: say how it is "
            "written: --map time_format='%d/%m/%Y %H:%M'",
        ),
        LogWarning(
            "numbers_not_read",
            len(numbers),
            f"rows have a number that is not understood{_show_example(numbers)}: where a comma "
            "stands before the fraction say --map decimal=, and where it parts thousands --map "
            "decimal=.",
        ),
        LogWarning(
            "returns",
            returns,
            "rows have a quantity or a price below 0, as returns have: they are refused, and what "
            "was bought stays counted",
        ),
        LogWarning(
            "open_quotes",
            _count_refused(log, OPEN_QUOTE),
            "rows begin a field with a quote that is not closed, and are refused: if the file "
            "quotes nothing, say --map quoted=false",
        ),
    ]


def _show_example(rows: Sequence[RefusedRecord]) -> str:
    """The value of the first row that was not understood."""
    for row in rows[:1]:
        name = row.kind.partition(":")[0]
        value = read_json(row.raw, dict).get(name)
        return f", such as {value!r:.60}" if value is not None else ""
    return ""


def _is_return(row: RefusedRecord) -> bool:
    name = row.kind.partition(":")[0]
    if name not in ("quantity", "price"):
        return False
    value = read_json(row.raw, dict).get(name)
    return isinstance(value, int | float) and value < 0


def _check_items(log: Log) -> list[LogWarning]:
    texts = item_texts(log.items)
    # Of a catalogue all are.
    used = {event.item_id for event in log.events} or {item.item_id for item in log.items}
    without = len(used - texts.keys())
    return [
        LogWarning(
            "no_text",
            without if 2 * without > len(used) else 0,
            f"of {len(used):,} items have no title, brand, category or description: the model "
            "knows new ones by text only; name its columns, or a table: --map items_file=NAME",
        )
    ]


def _count_refused(log: Log, reason: str) -> int:
    return sum(row.kind.startswith(reason) for row in log.refused)


def _date(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"
