"""What other systems' values become: names of events, times, labels."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headwater_client import EVENT_TYPES, EventError, SettingsError

Attribute = str | int | float | bool
# Of Go's `time.String`, which has the zone twice: 2022-02-24 10:00:00 +0000 UTC.
_ZONE_TWICE = re.compile(r"^(\S+ \S+) ([+-]\d{4}) [A-Z]{3,5}( m=\S+)?$")
_TIME = "expected a time of ISO 8601, such as 2022-02-24T10:00:00Z, or seconds or milliseconds UTC"
# What says which event it is, and is never one of its values.
_IDENTITY = {"event_id", "user_id", "item_id", "timestamp", "session_id", "context"}
_DIGITS = {10: 1000, 13: 1}


class EventAliases:
    """Which registered event is meant by the name that another system has for it.

    Args:
        pairs: NAME=EVENT each; a registered event's own name stands for itself.

    Raises:
        SettingsError: an event of that name is not registered.
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        given = dict(pair.split("=", 1) for pair in pairs)
        for name, event in given.items():
            if event not in EVENT_TYPES:
                known = ", ".join(EVENT_TYPES)
                raise SettingsError(
                    f"api.event_aliases: {name}={event}: no such event: one of {known}"
                )
        self._events = {name: name for name in EVENT_TYPES} | given
        meant = list(given.values())
        self._only = {event: name for name, event in given.items() if meant.count(event) == 1}

    def event_of(self, name: str, field: str) -> str:
        """The event that is meant.

        Args:
            field: where the name stands.

        Raises:
            EventError: none is known.
        """
        if name not in self._events:
            known = ", ".join(self._events)
            expected = f"expected one of {known}; api.event_aliases names others"
            raise EventError(field, name, expected)
        return self._events[name]

    def kept_as(self, name: str, field: str) -> str:
        """The event as which a person's history has what is meant; "" where it has it not.

        Raises:
            EventError: no event is known by this name.
        """
        spec = EVENT_TYPES[self.event_of(name, field)]
        return spec.name if spec.has_counters else spec.counts_as

    def name_of(self, event: str) -> str:
        """What an event is called there; its own name, where several become this one."""
        return self._only.get(event, event)


def split_fields(event: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an event has fields for, such as a rating's `value`, and what it has not.

    >>> split_fields("rating", {"value": 4.5, "comment": "good"})
    ({'value': 4.5}, {'comment': 'good'})
    """
    own = {*EVENT_TYPES[event].struct.__struct_fields__} - _IDENTITY
    return (
        {name: value for name, value in values.items() if name in own},
        {name: value for name, value in values.items() if name not in own},
    )


def read_time_ms(value: str | float | None, field: str) -> int | None:
    """Milliseconds UTC of a time; None where there is none, as in Go's year 1.

    >>> [read_time_ms(text, "t") for text in ("2022-02-24", "2022-02-24T00:00:01+01:00", None)]
    [1645660800000, 1645657201000, None]
    >>> [read_time_ms(text, "t") for text in (1645660800000, "1645660800")]
    [1645660800000, 1645660800000]
    >>> read_time_ms("2022-02-24 00:00:00 +0000 UTC", "t")
    1645660800000

    Raises:
        EventError: it is no time.
    """
    text = f"{value:.0f}" if isinstance(value, int | float) else value
    if not text or text.startswith("0001-01-01"):
        return None
    if text.isascii() and text.isdecimal() and len(text) in _DIGITS:
        return int(text) * _DIGITS[len(text)]
    try:
        read = datetime.fromisoformat(_ZONE_TWICE.sub(r"\1\2", text))
        return int(1000 * (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise EventError(field, value, _TIME) from None


def write_time(time_ms: int) -> str:
    """A time as ISO 8601 has it.

    >>> write_time(1645660800000)
    '2022-02-24T00:00:00Z'
    """
    spec = "milliseconds" if time_ms % 1000 else "seconds"
    text = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec=spec)
    return text.replace("+00:00", "Z")


def flatten(field: str, value: Any, name: str = "") -> Iterator[tuple[str, Attribute]]:
    """Labels as attributes: a text of a list is one that is true, what is nested has both names.

    >>> dict(flatten("Labels", {"year": 1999, "kinds": ["noir", "crime"]}))
    {'year': 1999, 'kinds.noir': True, 'kinds.crime': True}

    Args:
        field: where they stand.
        name: of this value.

    Raises:
        EventError: there are numbers in a list, or a value without a name.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from flatten(field, each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for each in value:
            if not isinstance(each, str):
                expected = "expected texts in a list: vectors are made here, of the item's text"
                raise EventError(f"{field}.{name}".rstrip("."), each, expected)
            yield f"{name}.{each}" if name else each, True
    elif value is not None:
        if not name:
            raise EventError(field, value, "expected a list of texts, or an object")
        yield name, value
