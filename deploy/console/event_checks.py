"""What looks wrong with events that keep to the contract: their ids, their times, their number.

Each check is of a sample, and says of how many events it is true and what to do about it.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from headwater_client import Interaction
from headwater_client.admin import quality
from msgspec.structs import asdict

from features.settings import DAY_MS, HOUR_MS, NOBODY

EXAMPLES = 5
Mask = Callable[[str], str]
"""What is shown of a person's id."""

_AHEAD_MS = 60_000
_LATE_MS = DAY_MS
# What stands in an id that was to be filled in, and was not.
_TEMPLATE = re.compile(
    r"\{\{[^{}]*\}\}|\$\{[^{}]*\}|<%[^<>]*%>|%\(\w+\)s|^%[sd]$|^:\w+$|\[object \w+\]"
)
_FLOAT = re.compile(r"[+-]?\d+\.0+")
# As workbooks write long numbers; not the hex of a hash, such as 12e45678.
_SCIENTIFIC = re.compile(r"[+-]?\d\.\d+[eE][+-]?\d{1,3}|[+-]?\d+[eE]\+\d{1,3}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@.]{2,}")
_MOJIBAKE = re.compile("\ufffd|[ÃÂ][\u0080-\u00bf]")
_NO_WORDS = frozenset(NOBODY) - {"-1"}


class SampledEvent(NamedTuple):
    """An event, where it stands, and when Kafka took it.

    Attributes:
        sender: what `console.sender` finds in its context; "" where it finds nothing.
    """

    type: str
    event: Interaction
    place: str
    arrived_ms: int
    sender: str = ""


class IdFault(NamedTuple):
    """Something that is wrong with the spelling of an id."""

    name: str
    title: str
    remedy: str
    is_so: Callable[[str], bool]


def _has_blanks(name: str) -> bool:
    """Whether there is white space around it, or something within that nobody sees."""
    return name != name.strip() or any(
        unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") or each == "\u00a0" for each in name
    )


ID_FAULTS = (
    IdFault(
        "placeholder",
        "words for no value",
        "the app sends an event before it knows the id: send none until it does, or as a guest",
        lambda name: name.strip().casefold() in _NO_WORDS,
    ),
    IdFault(
        "template",
        "templates that were not filled in",
        "the tag or template that sends these does not replace its variable: correct it there",
        lambda name: _TEMPLATE.search(name) is not None,
    ),
    IdFault(
        "float",
        "numbers as floats",
        "a data frame has read the ids as floats: read them as text, and send 12 for 12.0",
        lambda name: _FLOAT.fullmatch(name) is not None,
    ),
    IdFault(
        "scientific",
        "numbers in scientific notation",
        "a workbook has shortened long numbers, whose last digits are lost: export them as text",
        lambda name: _SCIENTIFIC.fullmatch(name) is not None,
    ),
    IdFault(
        "blanks",
        "white space, or characters that cannot be seen",
        "trim ids where they are read, before they are sent",
        _has_blanks,
    ),
    IdFault(
        "email",
        "e-mail addresses",
        "personal data as an id is copied into every row, window and log: send a key of your own, "
        "or a keyed hash of the address; forget those that were sent by DELETE /v1/people/ID",
        lambda name: _EMAIL.search(name) is not None,
    ),
    IdFault(
        "mojibake",
        "text that was read by the wrong encoding",
        "read the ids as UTF-8 where they come from",
        lambda name: _MOJIBAKE.search(name) is not None,
    ),
)


def find_faults(name: str) -> Iterator[IdFault]:
    """What looks wrong with an id.

    >>> [fault.name for name in ("12.0", "1.2E+11", "NaN ", "12") for fault in find_faults(name)]
    ['float', 'scientific', 'placeholder', 'blanks']
    """
    return (fault for fault in ID_FAULTS if fault.is_so(name))


def shape_of(name: str) -> str:
    r"""An id without what it says: a for a letter, 9 for a digit, * for a picture, cut.

    What stands between them, and what cannot be seen or was read by a wrong encoding, stays.

    >>> shape_of("ann.b7@shop.example")
    'aaa.a9@aaaa.aaaaaaa'
    >>> shape_of("\u0930\u093e\u092e \u2605 x\u00a0")
    'aaa * a\xa0'
    """
    return "".join(map(_shape_of_character, name[:40]))


def _shape_of_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] in "LM":
        # A letter, or a mark on one.
        return "a"
    if kind[0] == "N":
        return "9"
    if character.isascii() or character == "\ufffd" or kind[0] in "ZP" or kind in ("Cc", "Cf"):
        return character
    return "*"


def normalise_id(name: str) -> str:
    """What ids have in common that differ in how they are written alone.

    >>> {normalise_id(name) for name in ("Ann@Shop.example", " ann@shop.example")}
    {'ann@shop.example'}
    >>> {normalise_id(name) for name in ("0042", "42", "42.0", "4.2e+1")}
    {'42'}
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(each for each in text if unicodedata.category(each) not in ("Cc", "Cf"))
    text = text.strip().casefold()
    if _FLOAT.fullmatch(text):
        text = text.partition(".")[0]
    elif _SCIENTIFIC.fullmatch(text) and (number := float(text)).is_integer() and number < 2**53:
        text = str(int(number))
    if text.isdecimal():
        text = text.lstrip("0") or "0"
    return text


def check_ids(
    events: Sequence[SampledEvent], mask: Mask
) -> tuple[list[quality.IdFinding], list[quality.Spelling]]:
    """Ids that look wrong, and people and items under more than one spelling.

    Args:
        mask: what is shown of a person's id.
    """
    findings: list[quality.IdFinding] = []
    spellings: list[quality.Spelling] = []
    for field, show in (("user_id", mask), ("item_id", _show)):
        times = Counter(getattr(each.event, field) for each in events)
        findings += _find_id_findings(field, times, show)
        spellings += _find_spellings(field, times, show)
    return findings, sorted(spellings, key=lambda each: -each.events)


def _show(name: str) -> str:
    return name


def _stands_for_nobody(name: str) -> bool:
    """Whether it is a word for no value, or a template and nothing besides: it names no person."""
    return name.strip().casefold() in _NO_WORDS or _TEMPLATE.fullmatch(name.strip()) is not None


def _find_id_findings(
    field: str, times: Mapping[str, int], show: Mask
) -> Iterator[quality.IdFinding]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in times:
        for fault in find_faults(name):
            found[fault.name].append(name)
    for fault in ID_FAULTS:
        if names := found[fault.name]:
            names.sort(key=lambda name: -times[name])
            yield quality.IdFinding(
                fault=fault.name,
                field=field,
                ids=len(names),
                events=sum(times[name] for name in names),
                examples=_make_examples(names, times, show),
                title=fault.title,
                remedy=fault.remedy,
            )


def _find_spellings(field: str, times: Mapping[str, int], show: Mask) -> Iterator[quality.Spelling]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in times:
        alike[normalise_id(name)].append(name)
    for same, names in alike.items():
        if len(names) > 1 and same not in _NO_WORDS:
            names.sort(key=lambda name: -times[name])
            yield quality.Spelling(
                field=field,
                ids=_make_examples(names, times, show),
                events=sum(times[name] for name in names),
            )


def _make_examples(
    names: Sequence[str], times: Mapping[str, int], show: Mask
) -> list[quality.IdExample]:
    return [
        quality.IdExample(
            value=name if _stands_for_nobody(name) else show(name),
            shape=shape_of(name),
            events=times[name],
        )
        for name in names[:EXAMPLES]
    ]


# A group needs so many events, and so many of them off by the same, to be called shifted.
SHIFT_EVENTS, SHIFT_SHARE = 20, 0.5
# Zones of the world are whole quarters of an hour; what is off by one is off by little besides.
_QUARTER_MS, _NEAR_MS, _MOST_SHIFT_MS = HOUR_MS // 4, 90_000, 14 * HOUR_MS


def check_clocks(events: Sequence[SampledEvent]) -> list[quality.ClockGroup]:
    """The times of events beside their arrival, by type and sender; what is wrong stands first."""
    delays: dict[tuple[str, str], list[int]] = defaultdict(list)
    midnights = Counter[tuple[str, str]]()
    for each in events:
        group = each.type, each.sender
        delays[group].append(each.arrived_ms - each.event.timestamp)
        midnights[group] += each.event.timestamp % DAY_MS == 0
    groups = [
        _describe_clock(group, sorted(of_group), midnights[group])
        for group, of_group in delays.items()
    ]
    return sorted(groups, key=lambda each: (each.shift_minutes is None, -each.ahead, -each.events))


def _describe_clock(
    group: tuple[str, str], delays: Sequence[int], midnights: int
) -> quality.ClockGroup:
    shift, shifted = find_shift(delays)
    return quality.ClockGroup(
        type=group[0],
        sender=group[1],
        events=len(delays),
        median_delay_ms=delays[len(delays) // 2],
        p95_delay_ms=delays[len(delays) * 95 // 100],
        ahead=sum(delay < -_AHEAD_MS for delay in delays),
        late=sum(delay > _LATE_MS for delay in delays),
        shift_minutes=shift,
        shifted=shifted,
        dates_only=midnights,
    )


def find_shift(delays: Sequence[int]) -> tuple[int | None, int]:
    """The shift that most delays have in common, in minutes, and how many have it; None for none.

    Args:
        delays: arrival less timestamp, in milliseconds.

    >>> find_shift([-7_200_000 + delay for delay in range(200, 20_200, 500)])
    (-120, 40)
    >>> find_shift([*range(0, 7_200_000, 100_000)])
    (None, 0)
    """
    shifts = Counter(
        shift
        for delay in delays
        if abs(delay) <= _MOST_SHIFT_MS + _NEAR_MS
        and abs(delay - (shift := round(delay / _QUARTER_MS)) * _QUARTER_MS) <= _NEAR_MS
    )
    if len(delays) < SHIFT_EVENTS or not shifts:
        return None, 0
    ((shift, number),) = shifts.most_common(1)
    if shift == 0 or number < SHIFT_SHARE * len(delays):
        return None, 0
    return shift * _QUARTER_MS // 60_000, number


AT_ONCE_MS = 1000
_DUPLICATES = {
    "sent_again": (
        "the same event, sent again",
        "it counts once; whoever sends it may want to know that it was taken the first time",
    ),
    "id_reused": (
        "one event_id for different events",
        "all but the first of them are lost: make an event_id for each event, such as a UUID",
    ),
    "at_once": (
        "one person, item and type within a second, under other event_ids",
        "each counts: a handler is attached twice; send the same event_id for the same action",
    ),
}


def check_duplicates(
    events: Sequence[SampledEvent], mask: Mask, *, tells_ids: bool = True
) -> list[quality.DuplicateFinding]:
    """Events that stand in the sample more than once, by kind.

    Args:
        mask: what is shown of a person's id.
        tells_ids: whether the ids of events are told, which may tell whose they are.
    """
    found: dict[str, list[tuple[SampledEvent, SampledEvent]]] = {name: [] for name in _DUPLICATES}
    by_id: dict[tuple[str, str], SampledEvent] = {}
    newest: dict[tuple[str, str, str], SampledEvent] = {}
    for each in sorted(events, key=lambda one: one.event.timestamp):
        same_id = by_id.setdefault((each.type, each.event.event_id), each)
        if same_id is not each:
            is_same = asdict(same_id.event) == asdict(each.event)
            found["sent_again" if is_same else "id_reused"].append((same_id, each))
            continue
        action = each.event.user_id, each.event.item_id, each.type
        before = newest.get(action)
        newest[action] = each
        if before and each.event.timestamp - before.event.timestamp < AT_ONCE_MS:
            found["at_once"].append((before, each))
    return [
        quality.DuplicateFinding(
            kind=kind,
            events=len(pairs),
            examples=[_describe_pair(pair, mask, tells_ids) for pair in pairs[:EXAMPLES]],
            title=_DUPLICATES[kind][0],
            remedy=_DUPLICATES[kind][1],
        )
        for kind, pairs in found.items()
        if pairs
    ]


def _describe_pair(
    pair: tuple[SampledEvent, SampledEvent], mask: Mask, tells_ids: bool
) -> quality.DuplicateExample:
    first, second = pair
    event_ids = list(dict.fromkeys([first.event.event_id, second.event.event_id]))
    return quality.DuplicateExample(
        event_ids=event_ids if tells_ids else [],
        person=mask(first.event.user_id),
        item_id=first.event.item_id,
        type=first.type,
        apart_ms=abs(second.arrived_ms - first.arrived_ms),
        places=[first.place, second.place],
    )


def list_alerts(answer: quality.QualityAnswer) -> Iterator[quality.QualityAlert]:
    """Each finding as an alert; what loses events stands first."""
    found = [*_alert_of_ids(answer), *_alert_of_clocks(answer), *_alert_of_duplicates(answer)]
    order = list(quality.Severity)
    yield from sorted(found, key=lambda each: (order.index(each.severity), -each.events))


_HARMLESS_IDS = ("blanks", "mojibake", "float")


def _alert_of_ids(answer: quality.QualityAnswer) -> Iterator[quality.QualityAlert]:
    for found in answer.ids:
        is_mild = found.fault in _HARMLESS_IDS
        yield quality.QualityAlert(
            check=f"ids.{found.field}.{found.fault}",
            severity=quality.Severity.WARNING if is_mild else quality.Severity.ERROR,
            title=f"{found.field}: {found.title}",
            detail=f"{found.ids} ids in {_share(found.events, answer.sample.events)}",
            events=found.events,
            link=f"/quality#ids-{found.field}-{found.fault}",
            remedy=found.remedy,
        )
    for field in ("user_id", "item_id"):
        if several := [each for each in answer.spellings if each.field == field]:
            events = sum(each.events for each in several)
            yield quality.QualityAlert(
                check=f"ids.{field}.spellings",
                severity=quality.Severity.ERROR,
                title=f"{field}: the same id in different spellings",
                detail=f"{len(several)} ids in {_share(events, answer.sample.events)}",
                events=events,
                link=f"/quality#spellings-{field}",
                remedy="what is known is split between them: choose one spelling where ids are "
                "made; people can be brought together by POST /v1/people/GUEST/merge",
            )


def _alert_of_clocks(answer: quality.QualityAnswer) -> Iterator[quality.QualityAlert]:
    for group in answer.clocks:
        for check, severity, events, title in _clock_faults(group):
            of = f"{group.type} events" + (f" of {group.sender}" if group.sender else "")
            yield quality.QualityAlert(
                check=f"clocks.{check}",
                severity=severity,
                title=f"{of}: {title}",
                detail=_share(events, group.events),
                events=events,
                link="/quality#clocks",
                remedy=_CLOCK_REMEDIES[check],
            )


_ClockFault = tuple[str, quality.Severity, int, str]
_CLOCK_REMEDIES = {
    "shift": "local times are sent for UTC: send milliseconds since 1970 in UTC",
    "ahead": "the sender's clock is wrong: set NTP up, or leave timestamp out, and the API fills "
    "it in; more than an hour ahead is a dead letter (events.wrong_time)",
    "late": "a backfill or a replay is right to send them; else a queue of the app holds events "
    "back, or its clock is behind (events.max_age_s)",
    "dates": "the model reads the time between events: send when each happened",
}


def _clock_faults(group: quality.ClockGroup) -> Iterator[_ClockFault]:
    """What is wrong with a clock: the check, how much it matters, in how many events, in words."""
    error, warning, info = quality.Severity
    if group.shift_minutes is not None:
        side = "behind" if group.shift_minutes > 0 else "ahead"
        off = f"times are {abs(group.shift_minutes) / 60:g} h {side}"
        yield "shift", error, group.shifted, off
    elif group.ahead:
        yield "ahead", warning, group.ahead, "times in the future"
    if group.late:
        is_most = group.late > group.events / 2
        title = "times more than a day ago" + (", as a replay sends them" if is_most else "")
        yield "late", info if is_most else warning, group.late, title
    if group.events >= SHIFT_EVENTS and group.dates_only > group.events / 2:
        yield "dates", warning, group.dates_only, "times of midnight: dates, and no times"


_DUPLICATE_SEVERITY = {
    "sent_again": quality.Severity.INFO,
    "id_reused": quality.Severity.ERROR,
    "at_once": quality.Severity.WARNING,
}


def _alert_of_duplicates(answer: quality.QualityAnswer) -> Iterator[quality.QualityAlert]:
    for found in answer.duplicates:
        yield quality.QualityAlert(
            check=f"duplicates.{found.kind}",
            severity=_DUPLICATE_SEVERITY[found.kind],
            title=found.title,
            detail=_share(found.events, answer.sample.events),
            events=found.events,
            link=f"/quality#duplicates-{found.kind}",
            remedy=found.remedy,
        )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} events ({part / max(1, whole):.1%})"
