"""Lists of a placement as the log has them, and what people did before and after."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from confluent_kafka import Message
from headwater_client import EVENT_TYPES, EventError, Impression, Interaction, decode
from headwater_client.events import Recommendation
from headwater_client.topics import SERVED

from deploy.rollout import RolloutSettings
from deploy.rollout.evidence import are_seen_enough
from deploy.rollout.feedback.attribution import AttributionWindow, Credit, ServedRecommendation
from deploy.rollout.feedback.ledger import find_credits, find_rewards
from features.events import EventReader
from features.kafka import read_since
from features.schema import Float64Array
from features.settings import BrokerSettings, EventSettings
from features.topics import hash64

GROUP = "headwater-rules-replay"


class LoggedEvent(NamedTuple):
    """An interaction, where it stands and when Kafka took it."""

    event: Interaction
    topic: str
    partition: int
    offset: int
    time_ms: int


@dataclass
class ServedList:
    """A list that the API has answered, and when Kafka took it.

    Attributes:
        seen: the list as its person has seen it; None: not at all, as far as impressions say.
        rewards: what each place has earned, discounted, as it was sent: float64[k].
        seen_rewards: the same among what was seen.
    """

    told: Recommendation
    time_ms: int
    seen: ServedRecommendation | None = None
    rewards: Float64Array = field(init=False)
    seen_rewards: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        self.rewards, self.seen_rewards = (np.zeros(len(self.told.items)) for _ in range(2))

    @property
    def seen_to(self) -> int:
        """The last place that its person has seen; -1 for none."""
        return -1 if self.seen is None else self.seen.seen_to

    def as_recommendation(self) -> ServedRecommendation:
        """The list as events are credited to it."""
        items = [hash64(item.item_id) for item in self.told.items]
        return ServedRecommendation(self.told.recommendation_id, self.time_ms, 0, {"": items})

    def add(self, credit: Credit, rewards: Mapping[int, float]) -> None:
        """Count what an event has earned.

        Args:
            rewards: what one event of each type earns, by its code.
        """
        earned = self.seen_rewards if credit.of_seen else self.rewards
        earned[credit.place] += rewards[credit.event_code] * credit.discount


@dataclass
class ServedLog:
    """Lists of some people, and all their events.

    Attributes:
        lists: in the order in which Kafka took them.
        events: by person, likewise, from as far back as the log goes.
        total: how many lists of the placement there were, of all people.
    """

    lists: list[ServedList]
    events: Mapping[str, list[LoggedEvent]]
    total: int

    def keep_seen(self) -> bool:
        """Leave only what was seen, where the app says so; whether it does."""
        seen = [each for each in self.lists if each.seen_to >= 0]
        if not are_seen_enough(len(seen), len(self.lists)):
            return False
        self.lists = seen
        for each in seen:
            each.rewards = each.seen_rewards
        return True


class SampledPeople:
    """As many people as have so many lists, always the same ones: those with the lowest hashes."""

    def __init__(self, most_lists: int) -> None:
        self._most = most_lists
        self._lists: dict[str, list[ServedList]] = defaultdict(list)
        self._highest: list[tuple[int, str]] = []
        self._limit: int | None = None
        self._held = 0

    def add(self, served: ServedList) -> None:
        """Take a list, unless its person is none of these."""
        person = served.told.user_id
        place = hash64(f"replay/{person}")
        if self._limit is not None and place >= self._limit:
            return
        if person not in self._lists:
            heapq.heappush(self._highest, (-place, person))
        self._lists[person].append(served)
        self._held += 1
        # One person alone stays, however many lists there are of theirs.
        while self._held > self._most and len(self._highest) > 1:
            highest, gone = heapq.heappop(self._highest)
            self._limit = -highest
            self._held -= len(self._lists.pop(gone))

    @property
    def lists(self) -> list[ServedList]:
        """Their lists, in the order in which Kafka took them."""
        return sorted((each for own in self._lists.values() for each in own), key=_TIME)


_TIME = attrgetter("time_ms")


def read_served_log(
    kafka: BrokerSettings, reader: EventSettings, placement: str, since_ms: int, most_lists: int
) -> ServedLog:
    """The lists of a placement that were made since a moment, and their people's events.

    Args:
        most_lists: of how many lists at most; of fewer people, where there are more.

    Raises:
        ServerError: Kafka cannot be read.
    """
    people, total = SampledPeople(most_lists), 0
    for message in read_since(kafka, GROUP, [SERVED], since_ms):
        told = _read_list(message)
        if told is not None and told.placement == placement:
            total += 1
            people.add(ServedList(told, message.timestamp()[1]))
    lists = people.lists
    wanted = {each.told.user_id.encode() for each in lists}
    events: dict[str, list[LoggedEvent]] = defaultdict(list)
    read = EventReader(reader)
    topics = EVENT_TYPES.all_topics if wanted else ()
    for message in read_since(kafka, GROUP, topics, 0):
        if message.key() not in wanted:
            continue
        topic, time_ms = message.topic() or "", read.arrival_ms(message.timestamp()[1])
        try:
            event = read.read(topic, message.value(), message.timestamp()[1])
        except EventError:
            # As workers see it: in `dead-letters`, and nowhere else.
            continue
        place = (message.partition() or 0, message.offset() or 0)
        events[event.user_id].append(LoggedEvent(event, topic, *place, time_ms))
    for own in events.values():
        own.sort(key=_TIME)
    return ServedLog(lists, events, total)


def _read_list(message: Message) -> Recommendation | None:
    try:
        return decode(Recommendation, message.value())
    except EventError:
        return None


def credit_events(log: ServedLog, rules: RolloutSettings) -> None:
    """Give each list what its items have earned, and how far it was seen: as a rollout does."""
    rewards = find_rewards(rules.purchase_reward)
    named = {each.told.recommendation_id: each for each in log.lists}
    by_person: dict[str, list[ServedList]] = defaultdict(list)
    for served in log.lists:
        by_person[served.told.user_id].append(served)
    for person, lists in by_person.items():
        # A list that came in the same millisecond as an event came before it.
        happened: Iterable[ServedList | LoggedEvent] = heapq.merge(
            lists, log.events.get(person, ()), key=_TIME
        )
        window = AttributionWindow(int(1000 * rules.credit_window_s))
        for each in happened:
            if isinstance(each, ServedList):
                window.remember(person, each.as_recommendation())
            elif isinstance(each.event, Impression):
                seen = window.see(each.event, each.time_ms)
                if seen is not None:
                    named[seen.served.recommendation_id].seen = seen.served
            else:
                for credit in find_credits(window, each.event, each.time_ms, of_placement=True):
                    named[credit.recommendation_id].add(credit, rewards)
