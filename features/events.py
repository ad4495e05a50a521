"""Events as they come from Kafka: decoded, and each of a time that can be.

When a message arrived is what Kafka says: that stays with the message, so a replay decides alike.
A time of Kafka that cannot be (none, 0, 1970, 2200) says nothing, and this process's own clock
stands in. Then a replay may take an event that was refused, because its time has come by then: it
is in `dead-letters` already, and counts once all the same.

    2020                          now           a day after
     ├──────────────────────────────┼───────────────┤
         a message of this time has arrived then      any other: it arrives now
"""

import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec
from headwater_client.errors import EventError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import MAX_FUTURE_MS, Interaction, decode

from features.settings import DAY_MS, EventSettings, WrongTime

# No message of Headwater is older: a broker that says so has lost its clock.
EARLIEST_ARRIVAL_MS: Final = 1_577_836_800_000
# The broker's clock and this process's own may differ by so much, by a wrong time zone too.
CLOCK_TOLERANCE_MS: Final = DAY_MS

CountDoubt = Callable[[str, str], None]
"""Told the topic and the reason of an event whose time is in doubt: ahead, behind or arrival."""


def current_ms() -> int:
    """The time by this process's own clock, milliseconds UTC."""
    return int(time.time() * 1000)


def arrival_ms(message_ms: int | None, now_ms: int) -> int:
    """When a message arrived: what Kafka says, where that can be, else now.

    Args:
        message_ms: the time that Kafka gives the message; None or -1 where it has none.
        now_ms: this process's clock.

    >>> arrival_ms(1_764_000_000_000, now_ms=1_764_000_500_000)
    1764000000000
    >>> [arrival_ms(time, now_ms=1_764_000_500_000) for time in (None, -1, 0, 7_258_118_400_000)]
    [1764000500000, 1764000500000, 1764000500000, 1764000500000]
    """
    if message_ms is not None and _can_be(message_ms, now_ms):
        return message_ms
    return now_ms


def _can_be(message_ms: int, now_ms: int) -> bool:
    return EARLIEST_ARRIVAL_MS <= message_ms <= now_ms + CLOCK_TOLERANCE_MS


def latest_reference_ms(now_ms: int) -> int:
    """No counter that is sound is kept at a later time than this: `features.rows.recover_user`.

    Whoever counted the event may have had a clock a day ahead, and believed a broker whose clock
    is a day ahead of that.
    """
    return now_ms + 2 * CLOCK_TOLERANCE_MS + MAX_FUTURE_MS


class EventReader:
    """Reads events of the topics of interactions.

    Args:
        settings: whose events count, and what becomes of one of a wrong clock.
        count: told of each event whose time is in doubt.
        clock: this process's own, in milliseconds UTC.
    """

    def __init__(
        self,
        settings: EventSettings,
        count: CountDoubt | None = None,
        clock: Callable[[], int] = current_ms,
    ) -> None:
        self._is_nobody = settings.is_nobody
        self._clamps = settings.wrong_time is WrongTime.CLAMP
        self._max_age_ms = settings.max_age_s and int(1000 * settings.max_age_s)
        self._count = count
        self._clock = clock

    def read(self, topic: str, raw: bytes | None, message_ms: int | None) -> Interaction:
        """Decode and check one message; one of a wrong clock may come back with its arrival's time.

        Args:
            topic: of interactions.
            raw: the message's value.
            message_ms: the time that Kafka gives the message.

        Raises:
            EventError: it breaks the contract, is nobody's, or its time cannot be.
        """
        # Its time is checked here: by the arrival, and it may be clamped.
        event = decode(EVENT_TYPES.spec_of_topic(topic).struct, raw, sys.maxsize)
        self.check_person(event.user_id)
        arrived_ms = self.arrival_ms(message_ms)
        if arrived_ms != message_ms:
            self._doubt(topic, "arrival")
        if event.timestamp > arrived_ms + MAX_FUTURE_MS:
            self._doubt(topic, "ahead")
            limit = f"is in the future: expected at most {arrived_ms + MAX_FUTURE_MS}"
        elif self._max_age_ms and event.timestamp < arrived_ms - self._max_age_ms:
            self._doubt(topic, "behind")
            limit = f"is too old: expected at least {arrived_ms - self._max_age_ms}"
        else:
            return event
        if self._clamps:
            return msgspec.structs.replace(event, timestamp=arrived_ms)
        if arrived_ms != message_ms:
            limit += f", by this process's clock: the message's own time, {message_ms}, cannot be"
        raise EventError("timestamp", event.timestamp, limit)

    def check_person(self, person: str, field: str = "user_id") -> None:
        """Refuse an id that stands for nobody in particular.

        Raises:
            EventError: it names the field.
        """
        if self._is_nobody(person):
            raise EventError(field, person, "stands for nobody, by events.nobody")

    def arrival_ms(self, message_ms: int | None) -> int:
        """When a message arrived, by `arrival_ms` and this process's clock."""
        return arrival_ms(message_ms, self._clock())

    def _doubt(self, topic: str, reason: str) -> None:
        if self._count:
            self._count(topic, reason)
