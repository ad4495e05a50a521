"""What one partition's messages say of a rollout's variants, each counted once.

A ledger is a feedback row and the attribution window. After a restart the row is read from the
store, and the window is filled again from the messages of its length: those that the row has
absorbed are remembered, and not counted again.

Attribution: which recommendation an event is credited to, and what it earns.

It is credited to the recommendation that the app names, if that held the item; else to the person's
newest one that held it, within a window. Per recommendation an item earns once for clicks and once
for purchases, and an event that comes twice counts once.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE
from headwater_client.events import Interaction, Recommendation

from deploy.rollout.feedback.counters import FeedbackRow, VariantList, bit_of, bucket_of
from features.rollout_messages import Variant
from features.topics import Hash, hash64
from trainer.metrics import dcg_discount

# The newest of one person are kept; whoever gets more within the window is a machine.
MAX_SERVED = 50
MAX_EVENTS = 200
# So many answers to one person, and so many of their events, count in each stretch of the window's
# length: a bot is no crowd.
MAX_COUNTED = 50
# What each variant is compared with.
_COMPARED_WITH: dict[str, str] = {
    Variant.CANARY: Variant.BASELINE,
    Variant.BASELINE: Variant.CANARY,
    Variant.SHADOW: Variant.STABLE,
    Variant.STABLE: Variant.SHADOW,
}


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
        served = _find_recommendation(person, event, item, since_ms)
        if served is None or (item, code) in served.earned:
            return []
        if not person.may_count("events", self._stretch(time_ms)):
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


Value = TypeVar("Value")


class FeedbackMessage(NamedTuple):
    """A message and its place in the topic. `event` is None for one that breaks the contract."""

    source: Hash
    offset: int
    time_ms: int
    event: Interaction | Recommendation | None


@dataclass(frozen=True)
class FeedbackScope:
    """Which feedback counts, and for how much.

    Attributes:
        rollout_id: messages of other rollouts are passed over.
        started_ms: when the rollout began.
        window_ms: how long after it was shown a recommendation can earn.
        purchase_reward: what a purchase earns, beside 1 for a click.
    """

    rollout_id: str
    started_ms: int
    window_ms: int
    purchase_reward: float = 1.0


class Ledger:
    """Counts one partition of a rollout.

    Args:
        row: what was counted so far.
    """

    def __init__(self, scope: FeedbackScope, row: FeedbackRow) -> None:
        self.row = row
        self._scope = scope
        self._window = AttributionWindow(scope.window_ms)
        named = {CLICK.code: 1.0, PURCHASE.code: scope.purchase_reward}
        self._rewards = {
            spec.code: named.get(spec.code, spec.reward) for spec in EVENT_TYPES.values()
        }

    def apply(self, message: FeedbackMessage) -> None:
        """Take the next message, in the broker's order of time."""
        is_new = message.offset > self.row.offsets.get(message.source, -1)
        if is_new:
            self.row.offsets[message.source] = message.offset
            self.row.until_ms = max(self.row.until_ms, message.time_ms)
        if isinstance(message.event, Recommendation):
            self._apply_recommendation(message.event, message.time_ms, is_new)
        elif message.event is not None:
            self._apply_interaction(message.event, message.time_ms, is_new)

    def _apply_recommendation(self, answer: Recommendation, time_ms: int, is_new: bool) -> None:
        if answer.rollout_id != self._scope.rollout_id:
            return
        lists = _compared_lists(answer)
        if not lists:
            return
        bucket = bucket_of(answer.rollout_id, answer.user_id)
        hashes = {variant: [hash64(item) for item in items] for variant, items in lists.items()}
        served = ServedRecommendation(answer.recommendation_id, time_ms, bucket, hashes)
        recent = self._window.recent_variants(answer.user_id, time_ms)
        counts = self._window.remember(answer.user_id, served) and self._window.may_count_answer(
            answer.user_id, time_ms
        )
        if counts and is_new:
            for variant, made in _make_lists(answer, bucket, lists, recent).items():
                counted = replace(made, covers=self._covers(variant, made))
                self.row.variant(variant).add_list(counted)

    def _covers(self, variant: str, made: VariantList) -> bool:
        """Whether a list's items count as shown: as many lists of a variant as of the other.

        More lists show more items, whoever makes them; and one person's are alike.
        """
        if not made.first or made.failed:
            return False
        other = self.row.counters.get(_COMPARED_WITH.get(variant, ""))
        covered = self.row.variant(variant).counts["covers"]
        return covered <= (other.counts["covers"] if other else 0)

    def _apply_interaction(self, event: Interaction, time_ms: int, is_new: bool) -> None:
        if not self._rewards[EVENT_TYPES.spec_of(event).code]:
            return
        for credit in self._window.attribute(event, time_ms):
            if is_new:
                reward = self._rewards[credit.event_code] * credit.discount
                self.row.variant(credit.variant).add_reward(
                    credit.bucket, reward, credit.event_code
                )


def _make_lists(
    answer: Recommendation, bucket: int, lists: Mapping[str, Sequence[str]], recent: set[str]
) -> dict[str, VariantList]:
    """The list that was shown, and the shadow's, by variant.

    Args:
        recent: variants that made a list for this person just before.
    """
    made = {}
    person = bit_of(answer.rollout_id, answer.user_id)
    if (shadow := answer.shadow) is not None:
        made[Variant.SHADOW.value] = VariantList(
            bucket,
            shadow.items,
            score=shadow.score,
            latency_ms=shadow.latency_ms,
            failed=bool(shadow.failed),
            first=Variant.SHADOW not in recent,
            person=person,
        )
    made[answer.variant] = VariantList(
        bucket,
        lists[answer.variant],
        score=None if answer.fallback or not answer.items else answer.items[0].score,
        latency_ms=answer.latency_ms,
        failed=bool(answer.failed),
        fallback=answer.fallback,
        first=answer.variant not in recent,
        person=person,
    )
    return made


def _compared_lists(answer: Recommendation) -> dict[str, list[str]]:
    """The item ids by variant: of a canary or its baseline, of a shadow beside what was shown."""
    shown = [item.item_id for item in answer.items]
    if answer.variant in (Variant.CANARY, Variant.BASELINE):
        return {answer.variant: shown}
    # Beside a shadow everyone sees the stable version: another name is nobody's, and would make the
    # row grow with each that is made up.
    if answer.shadow is not None and answer.variant == Variant.STABLE:
        return {answer.variant: shown, Variant.SHADOW: answer.shadow.items}
    return {}


@dataclass
class _Source(Generic[Value]):
    """Waiting messages; all from before the watermark have been added."""

    waiting: deque[tuple[int, Value]] = field(default_factory=deque)
    watermark_ms: int = -1


class TimeOrderedMerge(Generic[Value]):
    """Merges sources that are each ordered by the broker's time.

    What was recommended before a click decides on whom the click is credited to, so a replay has to
    see both in the same order, although they are fetched in another.

    Args:
        sources: their names; of messages of the same millisecond the first source's go first.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, _Source[Value]] = {name: _Source() for name in sources}

    def add(self, source: str, time_ms: int, value: Value) -> None:
        """Add the next message of a source."""
        self._sources[source].waiting.append((time_ms, value))

    def advance_watermark(self, source: str, time_ms: int) -> None:
        """Say that a source has no more messages from before this time."""
        waiting = self._sources[source]
        waiting.watermark_ms = max(waiting.watermark_ms, time_ms)

    def pop_ready(self) -> Iterator[Value]:
        """Take out the messages that no other source can precede any more."""
        while (source := self._next_source()) is not None:
            yield source.waiting.popleft()[1]

    def _next_source(self) -> _Source[Value] | None:
        """The source with the oldest message, once no other can still have an older one."""
        oldest = min(
            (source for source in self._sources.values() if source.waiting),
            key=lambda source: source.waiting[0][0],
            default=None,
        )
        if oldest is None:
            return None
        time_ms = oldest.waiting[0][0]
        idle = (source for source in self._sources.values() if not source.waiting)
        return oldest if all(source.watermark_ms > time_ms for source in idle) else None
