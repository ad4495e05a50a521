"""What the demo has seen so far: throughput, latency, hits, dead letters, fallbacks."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Recommendation

from features.schema import FeatureSchema
from trainer.evaluation import DecayedPopularity

_RECENT = 2_000


@dataclass(kw_only=True)
class HitCounts:
    """Answers that were judged, and those that had what the person did next."""

    asked: int = 0
    hits: int = 0
    popular_hits: int = 0

    def judge(self, hit: bool, popular: bool) -> None:
        """Count one answer; `popular`: decayed popularity had the item at the same event."""
        self.asked += 1
        self.hits += hit
        self.popular_hits += popular

    @property
    def hit_rate(self) -> float:
        """Fraction of answers with the person's next new item among their ten items."""
        return self.hits / self.asked if self.asked else 0.0

    @property
    def popular_hit_rate(self) -> float:
        """The same for decayed popularity, asked as of the same events."""
        return self.popular_hits / self.asked if self.asked else 0.0


@dataclass(kw_only=True)
class VersionHits(HitCounts):
    """What one version answered; `since_ms` is when its first recommendation was produced."""

    since_ms: int


@dataclass(kw_only=True)
class RepeatCounts:
    """What the very next event of people was, whether its item was new to them or not."""

    asked: int = 0
    hits: int = 0
    own_hits: int = 0

    def judge(self, hit: bool, own: bool) -> None:
        """Count one answer; `own`: the item is among the ten that the person had last."""
        self.asked += 1
        self.hits += hit
        self.own_hits += own


@dataclass(kw_only=True)
class DemoTally(HitCounts):
    """Filled by the sender and the reader of recommendations, each in its thread.

    An answer is judged by the event that it answers: did it have the item of the person's next
    event with an item new to them? Both follow from the log, so neither the speed of the replay nor
    the order in which answers arrive changes the tally. Events of one person that a worker takes
    together get one answer, to the newest of them: how many events had one is told beside.

    Args:
        follow_ups: by event_id, what the person did after the event.
        watched: the person whose recommendations are shown.
    """

    follow_ups: "Mapping[str, FollowUp]"
    watched: str
    sent_s: dict[str, float] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    fallbacks: int = 0
    dead_letters: int = 0
    recommendations: int = 0
    versions: dict[str, VersionHits] = field(default_factory=dict)
    repeats: RepeatCounts = field(default_factory=RepeatCounts)
    answered: set[str] = field(default_factory=set)
    latest: Recommendation | None = None
    started_s: float = field(default_factory=time.monotonic)
    last_answer_s: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def note_sent(self, event: Interaction) -> None:
        """An event is about to be handed to Kafka."""
        self.sent_s[event.event_id] = time.monotonic()

    def note_received(self, answer: Recommendation) -> None:
        """A recommendation was read; one that is delivered again counts once."""
        sent_s = self.sent_s.get(answer.event_id)
        if sent_s is None or answer.event_id in self.answered:
            return
        self.answered.add(answer.event_id)
        self.last_answer_s = time.monotonic()
        self.recommendations += 1
        self.latencies_s.append(self.last_answer_s - sent_s)
        self._recent.append(self.last_answer_s)
        self.fallbacks += answer.fallback
        self._judge_answer(answer, self.follow_ups[answer.event_id])
        if answer.user_id == self.watched:
            self.latest = answer

    def _judge_answer(self, answer: Recommendation, after: "FollowUp") -> None:
        counts: list[HitCounts] = [self]
        if not answer.fallback:
            since_ms = answer.produced_time
            version = self.versions.setdefault(answer.model_version, VersionHits(since_ms=since_ms))
            version.since_ms = min(version.since_ms, since_ms)
            counts.append(version)
        shown = {item.item_id for item in answer.items[:PLACES]}
        if after.new_item is not None:
            for each in counts:
                each.judge(after.new_item in shown, after.popular)
        if after.next_item is not None:
            self.repeats.judge(after.next_item in shown, after.own)

    @property
    def answered_fraction(self) -> float:
        """Fraction of the events sent that have an answer of their own."""
        return len(self.answered) / len(self.sent_s) if self.sent_s else 0.0

    def latency_ms(self, percentile: float) -> float:
        """A percentile of produce to recommendation read; 0 before the first."""
        found = self.latencies_s
        return float(np.percentile(found, percentile)) * 1000 if found else 0.0

    @property
    def answers_per_second(self) -> float:
        """Of the last seconds."""
        recent = self._recent
        if len(recent) < 2 or recent[-1] == recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


# What people did after each event of a log, and whether simple rules had it: found beforehand.
#
# All of it follows from the log's order alone: how fast the log is replayed changes nothing.


PLACES = 10


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a person did after an event.

    Attributes:
        new_item: of their next event whose item was new to them; None: there is no such event. An
            item is new until an event of a type in `features.seen_by` names it.
        popular: whether decayed popularity, as of the event, had it among its best ten.
        next_item: of their next event at a later time, whatever its item; None: there is none.
        own: whether it is among the ten items that they had last.
    """

    new_item: str | None
    popular: bool
    next_item: str | None
    own: bool


class PopularityRule:
    """What decayed popularity would recommend, by the half-life that trending items are ranked by.

    Args:
        item_ids: every item of the log.
    """

    def __init__(self, item_ids: Sequence[str], schema: FeatureSchema) -> None:
        self._place = {name: at for at, name in enumerate(item_ids)}
        self._weight = schema.weight
        self._popularity = DecayedPopularity(
            len(item_ids), half_life=schema.settings.trending_half_life_ms
        )

    def add(self, event: Interaction) -> None:
        """Count an event; events come in time order."""
        weight = self._weight[EVENT_TYPES.spec_of(event).code]
        self._popularity.add(self._place[event.item_id], event.timestamp, weight)

    def has_in_top(self, item_id: str, seen: set[str], time_ms: int) -> bool:
        """Whether an item is among the ten most popular that the person has not seen."""
        scores = self._popularity.scores(time_ms)
        better = np.flatnonzero(scores > scores[self._place[item_id]])
        if len(better) - len(seen) >= PLACES:
            return False
        seen_places = {self._place[name] for name in seen}
        return sum(at not in seen_places for at in better.tolist()) < PLACES


def find_follow_ups(
    past: Sequence[Interaction],
    live: Sequence[Interaction],
    later: Sequence[Interaction],
    schema: FeatureSchema,
) -> dict[str, FollowUp]:
    """By event_id of each live event: what its person did after it.

    Args:
        past: events before the replay, oldest first.
        live: events of the replay.
        later: events of the log that are not replayed any more, but say what people did.
    """
    events = [*past, *live, *later]
    new_items, next_items = _next_items(events, schema)
    popularity = PopularityRule(sorted({event.item_id for event in events}), schema)
    found: dict[str, FollowUp] = {}
    for number, event, seen, newest in _walk(events[: len(past) + len(live)], schema):
        popularity.add(event)
        if number < len(past):
            continue
        new_item, next_item = new_items.get(number), next_items.get(number)
        found[event.event_id] = FollowUp(
            new_item,
            new_item is not None and popularity.has_in_top(new_item, seen, event.timestamp),
            next_item,
            next_item in newest,
        )
    return found


def _next_items(
    events: Sequence[Interaction], schema: FeatureSchema
) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """By an event's number: the next item that is new to its person, and the next at a later time.

    A rating of MovieLens may be a click and a purchase of one item in one instant: nobody returned.
    """
    new_items: dict[int, str] = {}
    next_items: dict[int, str] = {}
    open_new: dict[str, list[int]] = {}
    # Those of the person's newest instant: none of them is what the person did after another.
    newest: dict[str, list[int]] = {}
    seen_before: dict[str, set[str]] = {}
    for number, event in enumerate(events):
        person, item = event.user_id, event.item_id
        together = newest.setdefault(person, [])
        if together and events[together[0]].timestamp < event.timestamp:
            next_items |= dict.fromkeys(together, item)
            together.clear()
        if item not in seen_before.get(person, ()):
            new_items |= dict.fromkeys(open_new.pop(person, ()), item)
        if EVENT_TYPES.spec_of(event).code in schema.seen_by:
            seen_before.setdefault(person, set()).add(item)
        open_new.setdefault(person, []).append(number)
        together.append(number)
    return new_items, next_items


def _walk(
    events: Sequence[Interaction], schema: FeatureSchema
) -> Iterator[tuple[int, Interaction, set[str], list[str]]]:
    """Each event with its number, what its person has seen by then, and their ten newest items."""
    seen: dict[str, set[str]] = {}
    newest: dict[str, list[str]] = {}
    for number, event in enumerate(events):
        own = seen.setdefault(event.user_id, set())
        if EVENT_TYPES.spec_of(event).code in schema.seen_by:
            own.add(event.item_id)
        items = [name for name in newest.get(event.user_id, []) if name != event.item_id]
        newest[event.user_id] = [*items, event.item_id][-PLACES:]
        yield number, event, own, newest[event.user_id]


# What to try where a log gives the model no lead over a simple rule.


ENOUGH = 200
"""Judged answers without which nothing is said of the model."""


def give_advice(figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people; none where the model is better than decayed popularity and own items."""
    hits, after = figures["hit_rate_at_10"], figures["next_event"]
    if hits["asked"] < ENOUGH:
        yield (
            f"Only {hits['asked']} answers could be judged: too few to tell how good they are. "
            "Replay more events, or a log in which people come back."
        )
    elif hits["recommended"] <= hits["popularity"]:
        yield (
            "On this log the model is no better than decayed popularity "
            f"({hits['recommended']} beside {hits['popularity']}). What to try: a longer log; "
            "titles and categories of the items (--map title=COLUMN, category=COLUMN), from which "
            "items are known before anyone has touched them; more training "
            "(trainer.max_seconds, trainer.epochs); headwater tune --data, which searches for "
            "better settings."
        )
    if after["asked"] >= ENOUGH and after["own_hits"] > after["hits"]:
        own, ours = (f"{after[name] / after['asked']:.0%}" for name in ("own_hits", "hits"))
        yield (
            f"On this log people return to what they had: the very next event names one of their "
            f"own ten newest items in {own} of the cases, one that was recommended in {ours}. "
            "If items should be recommended again (groceries, music), set features.seen_by to [] "
            "(in the environment: HEADWATER_FEATURES__SEEN_BY='[]') and start anew."
        )
