"""What must be true after a soak: rows and windows hold each event once, each has its answer."""

import json
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from headwater_client import EVENT_TYPES, DeadLetter, EventError, ServerError, decode
from headwater_client.topics import DEAD_LETTERS, RECOMMENDATIONS

from bench.harness.hostile import GOOD
from deploy.settings import Settings
from features import kafka
from features.kafka import client_config, is_end
from features.store import item_sources
from tests.harness import oracle, rows
from tests.harness.oracle import Logged
from trainer.windows.store import WindowStore

_MARK = f'"user_id":"{GOOD}-'.encode()
_LONGEST_S, _POLL_S = 60.0, 0.2
# Of a person's events in a micro-batch the last is answered; so long a micro-batch can be.
_BATCH = 128
_SHOWN = 2_000
_ANSWER_S = 10.0
# A version on trial answers its people of a micro-batch up to so much later than the stable one.
_SAME_MS = 1_500
# So many events on each side say when the one between them was read: who died may have answered one
# of them, and who came next another, much later.
_BESIDE = 4
_NEAR_MS = 60_000
# A topic that was made anew begins at offset 0 again.
_EPOCH = 1 << 40


@dataclass(frozen=True)
class Findings:
    """How many events are missing, and how many are there twice."""

    lost: int = 0
    double: int = 0

    @classmethod
    def compare(cls, expected: int, found: int) -> "Findings":
        """What a count says."""
        return cls(max(0, expected - found), max(0, found - expected))

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(self.lost + other.lost, self.double + other.double)


def read_values(settings: Settings, topic: str) -> Iterator[tuple[int, int, bytes]]:
    """(partition, offset, value) of every message of a topic, in the order of its partitions.

    Raises:
        ServerError: Kafka does not answer.
    """
    for message in read_messages(settings, topic):
        yield message.partition() or 0, message.offset() or 0, message.value() or b""


def read_messages(settings: Settings, topic: str) -> Iterator[Message]:
    """Every message of a topic, in the order of its partitions.

    Raises:
        ServerError: Kafka does not answer.
    """
    consumer = Consumer(
        client_config(settings.kafka)
        | {
            "group.id": "soak-checks",
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "log_level": "0",
        }
    )
    unread = set(consumer.list_topics(topic, timeout=_LONGEST_S).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
    deadline = time.monotonic() + _LONGEST_S
    while unread:
        for message in consumer.consume(10_000, _POLL_S):
            deadline = time.monotonic() + _LONGEST_S
            if is_end(message):
                unread.discard(message.partition())
            elif (error := message.error()) is not None:
                raise ServerError(f"{topic}: {error}")
            else:
                yield message
        if time.monotonic() > deadline:
            raise ServerError(f"{topic}: partitions {unread} cannot be read to their end")
    consumer.close()


class KeptLog:
    """All good messages that Kafka has had, of topics that were made anew as well."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: list[Logged] = []
        self._epoch = 0

    def keep(self, topic: str) -> None:
        """Remember what a topic has, before it is deleted."""
        self._before += self._read(topic)
        self._epoch += 1

    def read(self) -> list[Logged]:
        """All messages, those sent twice as well; offsets grow from one topic to its successor."""
        return self._before + [one for topic in EVENT_TYPES.topics for one in self._read(topic)]

    def _read(self, topic: str) -> list[Logged]:
        found = []
        for partition, offset, value in read_values(self._settings, topic):
            if _MARK in value:
                event = json.loads(value)
                names = (event[name] for name in ("user_id", "item_id", "event_id", "timestamp"))
                at = offset + self._epoch * _EPOCH
                found.append(Logged(topic, partition, at, *names))
        return found


def drop_repeats(log: Iterable[Logged]) -> list[Logged]:
    """Each event once: the first of those with its id."""
    first: dict[tuple[str, str], Logged] = {}
    for event in sorted(log, key=lambda each: each.offset):
        first.setdefault((event.topic, event.event_id), event)
    return list(first.values())


def compare_counts(settings: Settings, log: Sequence[Logged], length: int) -> Findings:
    """Events that people's rows and items' rows lack, or have too often.

    Args:
        log: each event once.
        length: counters of a type of event in a person's row; the last does not decay.
    """
    found = Findings()
    people = oracle.by(log, "user_id")
    ids = [str(user_id) for (user_id,) in people]
    read = rows.read_rows(settings, "user_id", ids, ["user_activity:counters"])
    for user_id, row in zip(ids, read, strict=True):
        counters = row["counters"] or [0.0] * length
        found += Findings.compare(len(people[user_id,]), round(sum(counters[length - 1 :: length])))
    items = oracle.by(log, "item_id")
    names = [str(item_id) for (item_id,) in items]
    columns = item_sources(settings.kafka.partitions)
    read = rows.read_rows(settings, "item_id", names, [f"item_popularity:{c}" for c in columns])
    for item_id, row in zip(names, read, strict=True):
        counted = sum(round(row[column][-1]) for column in columns if row[column] is not None)
        found += Findings.compare(len(items[item_id,]), counted)
    return found


def list_wrong_rows(
    settings: Settings, log: Sequence[Logged], categories: Mapping[str, Sequence[str]]
) -> list[str]:
    """People and items whose rows are not what the log gives, computed anew by definition.

    Returns:
        Of each who it is, and what the comparison says.
    """
    people = list(oracle.by(log, "user_id").values())
    # Rows have the offsets of the topic that there is now: they are not compared.
    items = list(oracle.by([replace(event, offset=-1) for event in log], "item_id").values())
    return [
        *_list_failing(people, lambda events: rows.check_users(settings, events, categories)),
        *_list_failing(items, lambda events: rows.check_items(settings, events)),
    ]


def _list_failing(
    groups: Sequence[Sequence[Logged]], check: Callable[[Sequence[Logged]], None]
) -> list[str]:
    """The groups that fail: all are checked together, and halves of those that fail."""
    try:
        check([event for group in groups for event in group])
    except AssertionError as error:
        if len(groups) == 1:
            first = groups[0][0]
            return [f"{first.user_id}, {first.item_id}: {error}"[:_SHOWN]]
        half = len(groups) // 2
        return _list_failing(groups[:half], check) + _list_failing(groups[half:], check)
    return []


def windows_hold_all(settings: Settings) -> bool:
    """Whether windows hold the good events of all topics.

    Where nothing but refused messages has come since, no further window is written.
    """
    newest = WindowStore(settings.windows_address).newest()
    held = {
        (each.topic, each.partition): each.resume
        for each in (newest.progress.positions if newest else ())
    }
    sources = [
        (topic, number)
        for topic in EVENT_TYPES.topics
        for number in range(settings.kafka.partitions)
    ]
    ends = kafka.partition_bounds(settings.kafka, sources)
    behind = {source: (held.get(source, 0), end) for source, (_, end) in ends.items()}
    consumer = partial(kafka.topic_consumer, settings.kafka, "headwater-soak")
    return not any(
        _MARK in (message.value() or b"")
        for message in kafka.read_ranges(consumer, behind, _ANSWER_S)
    )


def count_good_in_windows(address: str) -> Counter[tuple[str, str]]:
    """How many rows of windows each good event has, by its topic and id."""
    found: Counter[tuple[str, str]] = Counter()
    store = WindowStore(address)
    for number in store.numbers():
        for row in store.read(number).rows:
            if row.event.user_id.startswith(f"{GOOD}-"):
                found[row.topic, row.event.event_id] += 1
    return found


def compare_windows(address: str, log: Sequence[Logged]) -> Findings:
    """Messages that windows lack, or have twice; one sent twice is there twice, and marked."""
    expected = Counter((each.topic, each.event_id) for each in log)
    found = count_good_in_windows(address)
    total = Findings()
    for name in expected.keys() | found.keys():
        total += Findings.compare(expected[name], found[name])
    return total


@dataclass(frozen=True)
class Answer:
    """A recommendation: to which event, when Kafka took it, and for which variant's people.

    Not when it was made: a fault of the soak is a clock that jumps.
    """

    event_id: str
    user_id: str
    arrived_ms: int
    variant: str = ""


def read_answers(settings: Settings) -> list[Answer]:
    """Every answer to a good event."""
    told = (
        (json.loads(value), message.timestamp()[1])
        for message in read_messages(settings, RECOMMENDATIONS)
        if _MARK in (value := message.value() or b"")
    )
    return [
        Answer(each["event_id"], each["user_id"], time_ms, each["variant"])
        for each, time_ms in told
    ]


def count_refused(settings: Settings) -> int:
    """Good events among the dead letters, which nobody may refuse."""
    return sum(
        _MARK in _raw_of(value) for _, _, value in read_values(settings, DEAD_LETTERS) if value
    )


def _raw_of(letter: bytes) -> bytes:
    try:
        return decode(DeadLetter, letter).raw
    except EventError:
        # A hostile one.
        return b""


Places = dict[str, list[int]]
"""By variant, and of any: where in a partition events stand that people were answered for."""
_ANY = "*"


class _AnswerTimes:
    """When events were answered, by variant and by any, and people by topic and variant."""

    def __init__(self, log: Sequence[Logged], answers: Sequence[Answer]) -> None:
        topics = {event.event_id: event.topic for event in log}
        self.of: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._own: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for answer in sorted(answers, key=lambda each: each.arrived_ms):
            person = answer.user_id, topics.get(answer.event_id, "")
            for kind in (answer.variant, _ANY):
                self.of[answer.event_id][kind].append(answer.arrived_ms)
            self._own[person][answer.variant].append(answer.arrived_ms)

    def is_read_with(self, place: int, ordered: Sequence[Logged], places: Places) -> bool:
        """Whether an event of another topic was answered when this one was read."""
        event = ordered[place]
        others = (topic for topic in EVENT_TYPES.topics if topic != event.topic)
        own = (self._own.get((event.user_id, topic), {}) for topic in others)
        return any(
            self._are_made_beside(times, variant, place, ordered, places)
            for each in own
            for variant, times in each.items()
        )

    def _are_made_beside(
        self,
        times: Sequence[int],
        variant: str,
        place: int,
        ordered: Sequence[Logged],
        places: Places,
    ) -> bool:
        def list_sides(kind: str) -> Iterator[list[list[int]]]:
            stands = places[kind]
            at = bisect_left(stands, place)
            for side in (stands[max(0, at - _BESIDE) : at], stands[at : at + _BESIDE]):
                yield [self.of[ordered[each].event_id][kind] for each in side]

        # Who was the last of a version on trial, or the first, has none of its people on that side.
        sides = zip(list_sides(variant), list_sides(_ANY), strict=True)
        before, after = (own or anybody for own, anybody in sides)
        sent_ms = ordered[place].time_ms
        first = min((each[0] for each in before), default=sent_ms)
        last = max((each[-1] for each in after), default=first)
        return bool(before or after) and _has_between(times, first - _SAME_MS, last + _SAME_MS)


def list_unanswered(log: Sequence[Logged], answers: Sequence[Answer]) -> list[Logged]:
    """Events that have no answer, and of whose person no event in the same micro-batch has one.

    A micro-batch is answered once a person: for the last of the person's events in it, of whichever
    topic. So an event of the same topic within the next 128 of its partition counts, and so does an
    answer to an event of another topic that was made when this one was read: not before the few
    before it in its partition were answered (or it was sent), nor after the few after it were.
    Those are people of the same variant, where it has any on that side: a version on trial may be
    some micro-batches behind.
    """
    answered = _AnswerTimes(log, answers)
    unanswered = []
    for events in oracle.by(log, "topic", "partition").values():
        ordered = sorted(events, key=lambda each: each.offset)
        places: Places = defaultdict(list)
        stood: dict[str, list[int]] = defaultdict(list)
        for place, event in enumerate(ordered):
            if event.event_id in answered.of:
                stood[event.user_id].append(place)
                for variant in answered.of[event.event_id]:
                    places[variant].append(place)
        unanswered += [
            event
            for place, event in enumerate(ordered)
            if event.event_id not in answered.of
            and not _has_between(stood[event.user_id], place, place + _BATCH)
            and not answered.is_read_with(place, ordered, places)
        ]
    return unanswered


def list_near(
    event: Logged, log: Sequence[Logged], answers: Sequence[Answer]
) -> list[tuple[int, str, str, str]]:
    """What was answered near an event: ms after it came, variant, person, and to which event.

    Of its person, and of the micro-batches before and after it in its partition.
    """
    named = {each.event_id: each for each in log}
    near = []
    for answer in answers:
        told, after_ms = named.get(answer.event_id), answer.arrived_ms - event.time_ms
        if told is None:
            continue
        same = (told.topic, told.partition) == (event.topic, event.partition)
        is_beside = same and abs(told.offset - event.offset) <= _BATCH
        if is_beside or (answer.user_id == event.user_id and abs(after_ms) <= _NEAR_MS):
            place = f"{told.topic}/{told.partition} {told.offset}"
            near.append((after_ms, answer.variant, answer.user_id, place))
    return sorted(near)


def _has_between(ascending: Sequence[int], first: int, last: int) -> bool:
    at = bisect_left(ascending, first)
    return at < len(ascending) and ascending[at] <= last
