"""Attribution: which recommendation an event is credited to, and what it earns.

It is credited to the recommendation that the app names, if that held the item; else to the person's
newest one that held it, within a window. Per recommendation an item earns once for clicks and once
for purchases, and an event that comes twice counts once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from features.topics import Hash, hash64
from trainer.metrics import dcg_discount

# The newest of one person are kept; whoever gets more within the window is a machine.
MAX_SERVED = 50
MAX_EVENTS = 200


@dataclass(slots=True)
class ServedRecommendation:
    """A recommendation as the attribution window keeps it.

    Attributes:
        lists: by variant, the hashes of its items, best first.
        earned: items that have earned already, and by events of which type (its code).
    """

    recommendation_id: str
    time_ms: int
    bucket: int
    lists: Mapping[str, Sequence[Hash]]
    earned: set[tuple[Hash, int]] = field(default_factory=set)


@dataclass(frozen=True)
class Credit:
    """What an event earns a variant.

    Attributes:
        event_code: of the event's type.
        discount: 1 / log2(position + 2), as in DCG: 1 in the first place.
    """

    variant: str
    bucket: int
    discount: float
    event_code: int


@dataclass(slots=True)
class _Person:
    served: OrderedDict[str, ServedRecommendation] = field(default_factory=OrderedDict)
    events: OrderedDict[str, int] = field(default_factory=OrderedDict)


class AttributionWindow:
    """The recommendations that each person got in the last `window_ms`, by the broker's time.

    Messages are given in that order.
    """

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._people: OrderedDict[str, _Person] = OrderedDict()
        self._newest_ms = 0

    def __len__(self) -> int:
        """The number of people who are remembered."""
        return len(self._people)

    def remember(self, user_id: str, served: ServedRecommendation) -> bool:
        """Keep a recommendation; False for one that was sent before."""
        person = self._person(user_id, served.time_ms)
        if served.recommendation_id in person.served:
            return False
        person.served[served.recommendation_id] = served
        while len(person.served) > MAX_SERVED:
            person.served.popitem(last=False)
        return True

    def recent_variants(self, user_id: str, time_ms: int) -> set[str]:
        """The variants that made a list for somebody in the window before a moment."""
        person = self._people.get(user_id)
        if person is None:
            return set()
        since_ms = time_ms - self._window_ms
        recent = (served for served in person.served.values() if served.time_ms >= since_ms)
        return {variant for served in recent for variant in served.lists}

    def attribute(self, event: Interaction, time_ms: int) -> list[Credit]:
        """What an event earns that the broker took at `time_ms`; empty where nothing was shown."""
        if event.user_id not in self._people:
            return []
        person = self._person(event.user_id, time_ms)
        since_ms = time_ms - self._window_ms
        # An event of before the window would be unknown to a controller that starts now: so that
        # all decide alike, it is forgotten here too.
        if person.events.get(event.event_id, since_ms - 1) >= since_ms:
            return []
        person.events[event.event_id] = time_ms
        while len(person.events) > MAX_EVENTS:
            person.events.popitem(last=False)
        item, code = hash64(event.item_id), EVENT_TYPES.spec_of(event).code
        served = _find_recommendation(person, event, item, since_ms)
        if served is None or (item, code) in served.earned:
            return []
        served.earned.add((item, code))
        return list(_credits(served, item, code))

    def _person(self, user_id: str, time_ms: int) -> _Person:
        """Somebody's record, which is then the last to be forgotten."""
        self._newest_ms = max(self._newest_ms, time_ms)
        self._forget()
        person = self._people.setdefault(user_id, _Person())
        self._people.move_to_end(user_id)
        return person

    def _forget(self) -> None:
        """Drop at most two people a message: enough for memory to stay bounded."""
        since_ms = self._newest_ms - self._window_ms
        for user_id in list(islice(self._people, 2)):
            newest = next(reversed(self._people[user_id].served.values()), None)
            if newest is not None and newest.time_ms < since_ms:
                del self._people[user_id]


def _find_recommendation(
    person: _Person, event: Interaction, item: Hash, since_ms: int
) -> ServedRecommendation | None:
    def is_candidate(served: ServedRecommendation | None) -> bool:
        return served is not None and served.time_ms >= since_ms and _contains(served, item)

    named = person.served.get(event.recommendation_id or "")
    if is_candidate(named):
        return named
    return next(filter(is_candidate, reversed(person.served.values())), None)


def _contains(served: ServedRecommendation, item: Hash) -> bool:
    return any(item in items for items in served.lists.values())


def _credits(served: ServedRecommendation, item: Hash, code: int) -> Iterator[Credit]:
    for variant, items in served.lists.items():
        if item in items:
            discount = float(dcg_discount(list(items).index(item)))
            yield Credit(variant, served.bucket, discount, code)
