"""To which recommendation a click or purchase is credited, and what it earns.

To the one that the app names, if that held the item; else to the newest one to that person that
held it, within a window. Per recommendation an item earns once for clicks and once for purchases,
and an event that comes twice counts once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from headwater_client.events import Click, Purchase

from features.topics import Hash, hash64

# Of one person, the newest; who gets more within the window is a machine.
MOST_SHOWN = 50
MOST_EVENTS = 200


@dataclass(slots=True)
class Shown:
    """A recommendation as it is remembered.

    Attributes:
        lists: by variant, what it put together: hashes of items, best first.
        earned: the items that have earned, and by what.
    """

    recommendation_id: str
    time_ms: int
    bucket: int
    lists: Mapping[str, Sequence[Hash]]
    earned: set[tuple[Hash, bool]] = field(default_factory=set)


@dataclass(frozen=True)
class Earned:
    """What an event earns a variant.

    Attributes:
        discount: 1 / log2(position + 2), as in DCG: 1 in the first place.
    """

    variant: str
    bucket: int
    discount: float
    bought: bool


@dataclass(slots=True)
class _Person:
    shown: OrderedDict[str, Shown] = field(default_factory=OrderedDict)
    events: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Memory:
    """What was shown to whom in the last `window_ms`, by the broker's time.

    Messages are given in that order.
    """

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._people: OrderedDict[str, _Person] = OrderedDict()
        self._newest_ms = 0

    def __len__(self) -> int:
        """People who are remembered."""
        return len(self._people)

    def show(self, user_id: str, shown: Shown) -> bool:
        """Remember a recommendation; False for one that was sent before."""
        person = self._person(user_id, shown.time_ms)
        if shown.recommendation_id in person.shown:
            return False
        person.shown[shown.recommendation_id] = shown
        while len(person.shown) > MOST_SHOWN:
            person.shown.popitem(last=False)
        return True

    def lately(self, user_id: str, time_ms: int) -> set[str]:
        """The variants that somebody was shown in the window before a moment."""
        person = self._people.get(user_id)
        if person is None:
            return set()
        since_ms = time_ms - self._window_ms
        recent = (shown for shown in person.shown.values() if shown.time_ms >= since_ms)
        return {name for shown in recent for name in shown.lists}

    def credit(self, event: Click | Purchase, time_ms: int) -> list[Earned]:
        """What an event that the broker took then earns; nothing where no one recommended it."""
        if event.user_id not in self._people:
            return []
        person = self._person(event.user_id, time_ms)
        since_ms = time_ms - self._window_ms
        # An older one would be forgotten by who starts now, and all decide alike.
        if person.events.get(event.event_id, since_ms - 1) >= since_ms:
            return []
        person.events[event.event_id] = time_ms
        while len(person.events) > MOST_EVENTS:
            person.events.popitem(last=False)
        item, bought = hash64(event.item_id), isinstance(event, Purchase)
        shown = _credited(person, event, item, since_ms)
        if shown is None or (item, bought) in shown.earned:
            return []
        shown.earned.add((item, bought))
        return list(_earned(shown, item, bought))

    def _person(self, user_id: str, time_ms: int) -> _Person:
        """A person, who is then the last to be forgotten."""
        self._newest_ms = max(self._newest_ms, time_ms)
        self._forget()
        person = self._people.setdefault(user_id, _Person())
        self._people.move_to_end(user_id)
        return person

    def _forget(self) -> None:
        """Two people at most, each time somebody comes: so many are never too many."""
        since_ms = self._newest_ms - self._window_ms
        for user_id in list(islice(self._people, 2)):
            person = self._people[user_id]
            newest = next(reversed(person.shown.values()), None)
            if newest is not None and newest.time_ms < since_ms:
                del self._people[user_id]


def _credited(person: _Person, event: Click | Purchase, item: Hash, since_ms: int) -> Shown | None:
    def can_be(shown: Shown | None) -> bool:
        return shown is not None and shown.time_ms >= since_ms and _holds(shown, item)

    named = person.shown.get(event.recommendation_id or "")
    if can_be(named):
        return named
    return next(filter(can_be, reversed(person.shown.values())), None)


def _holds(shown: Shown, item: Hash) -> bool:
    return any(item in items for items in shown.lists.values())


def _earned(shown: Shown, item: Hash, bought: bool) -> Iterator[Earned]:
    for variant, items in shown.lists.items():
        if item in items:
            discount = 1 / math.log2(list(items).index(item) + 2)
            yield Earned(variant, shown.bucket, discount, bought)
