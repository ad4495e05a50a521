"""Lists of a placement as the log has them, and what people did before and after."""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import attrgetter
from time import monotonic
from typing import NamedTuple

import confluent_kafka
import numpy as np
from confluent_kafka import KafkaException, Message, TopicPartition
from headwater_client import EVENT_TYPES, EventError, Impression, Interaction, ServerError, decode
from headwater_client.events import Recommendation
from headwater_client.kafka import unreachable
from headwater_client.topics import SERVED

from deploy.rollout import RolloutSettings
from deploy.rollout.evidence import are_seen_enough
from features.events import EventReader
from features.kafka import client_config, is_end
from features.schema import Float64Array
from features.settings import BrokerSettings, EventSettings
from features.topics import hash64
from trainer.metrics import dcg_discount

ANSWER_S = 15.0
_MESSAGES, _POLL_S = 1000, 0.1


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
        rewards: what each place earned, discounted: float64[k].
        seen_to: the last place that its person has seen, by impressions; -1 for none.
    """

    told: Recommendation
    time_ms: int
    seen_to: int = -1
    rewards: Float64Array = field(init=False)
    earned: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rewards = np.zeros(len(self.told.items))

    def find_place(self, item_id: str) -> int | None:
        """Where it holds an item; None where it does not."""
        ids = [item.item_id for item in self.told.items]
        return ids.index(item_id) if item_id in ids else None


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
    for message in _read_topics(kafka, [SERVED], since_ms):
        told = _read_list(message)
        if told is not None and told.placement == placement:
            total += 1
            people.add(ServedList(told, message.timestamp()[1]))
    lists = people.lists
    wanted = {each.told.user_id.encode() for each in lists}
    events: dict[str, list[LoggedEvent]] = defaultdict(list)
    read = EventReader(reader)
    for message in _read_topics(kafka, list(EVENT_TYPES.all_topics), 0) if wanted else ():
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


def _read_topics(kafka: BrokerSettings, topics: Sequence[str], since_ms: int) -> Iterator[Message]:
    """What topics have since a moment, up to their ends as they are now.

    Raises:
        ServerError: Kafka cannot be read.
    """
    consumer = confluent_kafka.Consumer(
        client_config(kafka)
        | {
            "group.id": "headwater-rules-replay",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "earliest",
            "log_level": "0",
        }
    )
    places = [TopicPartition(name, n, since_ms) for name in topics for n in range(kafka.partitions)]
    with closing(consumer):
        try:
            starts = consumer.offsets_for_times(places, ANSWER_S)
            consumer.assign(starts)
        except KafkaException as error:
            raise unreachable(error) from error
        ended, heard_s = set[tuple[str, int]](), monotonic()
        while len(ended) < len(places):
            for message in consumer.consume(_MESSAGES, _POLL_S):
                heard_s = monotonic()
                if is_end(message):
                    ended.add((message.topic() or "", message.partition() or 0))
                elif (problem := message.error()) is not None:
                    raise ServerError(f"Kafka: {message.topic()}: {problem.str()}")
                else:
                    yield message
            if monotonic() - heard_s > ANSWER_S:
                raise ServerError(f"Kafka: {', '.join(topics)}: no answer in {ANSWER_S:.0f} s")


def credit_events(log: ServedLog, rules: RolloutSettings) -> None:
    """Give each list what its items have earned, and how far it was seen: as a rollout does.

    An event earns the list that it names, else its person's newest one within the credit window
    that held the item; an item earns once in a list for each type.
    """
    window_ms = 1000 * rules.credit_window_s
    by_person: dict[str, list[ServedList]] = defaultdict(list)
    for served in log.lists:
        by_person[served.told.user_id].append(served)
    for person, lists in by_person.items():
        named = {each.told.recommendation_id: each for each in lists}
        for logged in log.events.get(person, ()):
            event, now_ms = logged.event, logged.time_ms
            if isinstance(event, Impression):
                seen = named.get(event.recommendation_id)
                if seen is not None and 0 <= now_ms - seen.time_ms <= window_ms:
                    seen.seen_to = max(seen.seen_to, event.position)
            elif reward := _find_reward(event, rules):
                recent = [each for each in lists if 0 <= now_ms - each.time_ms <= window_ms]
                _credit(recent, event, reward)


def _find_reward(event: Interaction, rules: RolloutSettings) -> float:
    spec = EVENT_TYPES.spec_of(event)
    return rules.purchase_reward if spec.name == "purchase" else spec.reward


def _credit(lists: Sequence[ServedList], event: Interaction, reward: float) -> None:
    holding = [each for each in lists if each.find_place(event.item_id) is not None]
    if event.recommendation_id:
        # What was clicked in another place is none of this placement's.
        holding = [e for e in holding if e.told.recommendation_id == event.recommendation_id]
    if not holding:
        return
    served, once = holding[-1], (event.item_id, EVENT_TYPES.spec_of(event).code)
    place = served.find_place(event.item_id)
    if once not in served.earned and place is not None:
        served.earned.add(once)
        served.rewards[place] += reward * float(dcg_discount(place))
