"""Which recommendation an event is credited to, and what it earns.

It is credited to the recommendation that the app names, if that held the item; else to the person's
newest one that held it, within a window. Per recommendation an item earns once for clicks and once
for purchases, and an event that comes twice counts once.

Where the app says what was really seen (impressions), the same is found among what was seen: a list
up to the place that an impression names.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from headwater_client import Impression
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from deploy.rollout.feedback.counters import VariantList
from features.topics import Hash, hash64
from trainer.metrics import dcg_discount

# The newest of one person are kept; whoever gets more within the window is a machine.
MAX_SERVED = 50
MAX_EVENTS = 200
# So many answers to one person, and so many of their events, count in each stretch of the window's
# length: a bot is no crowd.
MAX_COUNTED = 50


@dataclass(slots=True)
class ServedRecommendation:
    """A recommendation as the attribution window keeps it.

    Attributes:
        lists: by variant, the hashes of its items, best first.
        made: by variant, what is to be counted once somebody has seen it.
        seen_to: the last place that its person has seen, by impressions; -1 for none.
        earned: items that have earned already, and by events of which type (its code): as sent,
            and as seen.
    """

    recommendation_id: str
    time_ms: int
    bucket: int
    lists: Mapping[str, Sequence[Hash]]
    made: Mapping[str, VariantList] = field(default_factory=dict)
    seen_to: int = -1
    earned: tuple[set[tuple[Hash, int]], set[tuple[Hash, int]]] = field(
        default_factory=lambda: (set(), set())
    )

    def shows(self, item: Hash) -> bool:
        """Whether an item is in one of its lists."""
        return any(item in items for items in self.lists.values())

    def has_shown(self, item: Hash) -> bool:
        """Whether its person has seen an item in one of its lists."""
        return any(item in items[: self.seen_to + 1] for items in self.lists.values())


@dataclass(frozen=True)
class Credit:
    """What an event earns a variant.

    Attributes:
        event_code: of the event's type.
        discount: 1 / log2(position + 2), as in DCG: 1 in the first place.
        of_seen: it is of a list that was seen, and not only sent.
        recommendation_id, place: which list, and where in it the item stands, from 0.
    """

    variant: str
    bucket: int
    discount: float
    event_code: int
    of_seen: bool = False
    recommendation_id: str = field(default="", compare=False)
    place: int = field(default=0, compare=False)


class SeenList(NamedTuple):
    """A recommendation that its person sees for the first time.

    Attributes:
        recent: the variants of which this person has seen another list within the window.
    """

    served: ServedRecommendation
    recent: set[str]


@dataclass(slots=True)
class _Person:
    """What the window keeps of somebody, and what has counted in the present stretch of time."""

    served: OrderedDict[str, ServedRecommendation] = field(default_factory=OrderedDict)
    events: OrderedDict[str, int] = field(default_factory=OrderedDict)
    stretch: int = -1
    counted: dict[str, int] = field(default_factory=dict)

    def may_count(self, kind: str, stretch: int) -> bool:
        """Count one more of a kind, unless there were so many already."""
        if stretch > self.stretch:
            self.stretch = stretch
            self.counted.clear()
        number = self.counted[kind] = self.counted.get(kind, 0) + 1
        return number <= MAX_COUNTED


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

    def holds(self, user_id: str, recommendation_id: str) -> bool:
        """Whether a recommendation to somebody is remembered."""
        person = self._people.get(user_id)
        return person is not None and recommendation_id in person.served

    def may_count_answer(self, user_id: str, time_ms: int) -> bool:
        """Whether one more recommendation to somebody counts; False for the many of a bot."""
        return self._person(user_id, time_ms).may_count("answers", self._stretch(time_ms))

    def _stretch(self, time_ms: int) -> int:
        """Stretches begin at fixed times, and none is longer than what a restart reads again."""
        return time_ms // self._window_ms

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
        served = [each for each in person.served.values() if each.time_ms >= since_ms]
        sent = _choose(served, event, lambda each: each.shows(item))
        seen = _choose(served, event, lambda each: each.has_shown(item))
        earning = [
            (each, of_seen)
            for each, of_seen in ((sent, False), (seen, True))
            if each is not None and (item, code) not in each.earned[of_seen]
        ]
        if not earning or not person.may_count("events", self._stretch(time_ms)):
            return []
        found: list[Credit] = []
        for each, of_seen in earning:
            each.earned[of_seen].add((item, code))
            found += _credits(each, item, code, of_seen=of_seen)
        return found

    def see(self, event: Impression, time_ms: int) -> SeenList | None:
        """What an impression is of; None where it was seen before, or is of no list in the window.

        A later impression that reaches further only widens what can earn.
        """
        if event.user_id not in self._people:
            return None
        person = self._person(event.user_id, time_ms)
        served = person.served.get(event.recommendation_id)
        if served is None or served.time_ms < time_ms - self._window_ms:
            return None
        is_new, served.seen_to = served.seen_to < 0, max(served.seen_to, event.position)
        if not is_new or not person.may_count("impressions", self._stretch(time_ms)):
            return None
        since_ms = time_ms - self._window_ms
        others = (
            each
            for each in person.served.values()
            if each is not served and each.seen_to >= 0 and each.time_ms >= since_ms
        )
        return SeenList(served, {variant for each in others for variant in each.lists})

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


def _choose(
    served: Sequence[ServedRecommendation],
    event: Interaction,
    is_candidate: Callable[[ServedRecommendation], bool],
) -> ServedRecommendation | None:
    """The recommendation that an event is credited to: the one that it names, else the newest."""
    candidates = [each for each in served if is_candidate(each)]
    named = [each for each in candidates if each.recommendation_id == event.recommendation_id]
    return next(reversed(named or candidates), None)


def _credits(
    served: ServedRecommendation, item: Hash, code: int, *, of_seen: bool
) -> Iterator[Credit]:
    for variant, items in served.lists.items():
        shown = items[: served.seen_to + 1] if of_seen else items
        if item in shown:
            place, name = list(shown).index(item), served.recommendation_id
            discount = float(dcg_discount(place))
            yield Credit(variant, served.bucket, discount, code, of_seen, name, place)
