"""What is popular with the people of a segment: decayed rates of what they did of late.

Rows of items have no people in them, and who is in a segment changes with what apps say. So each
process that is asked keeps the newest events of the log in memory, without their ids: who, which
item, when, how much it weighs. An answer is a sum over those of the people who are in the segment
now, by the weights and the half-life of what trends.

    log      ...  x x  x |x   x xx   x    x x  x   x|   x an event
                         |<--- horizon, at most --->|now
    counted               everything from here on

What is older than the horizon is missing: it would weigh 2^-(horizon / half-life) or less of what
it did. A process that nobody asks reads nothing.

P people.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import confluent_kafka
import numpy as np
import numpy.typing as npt
import structlog
from cachetools import LRUCache, TTLCache
from confluent_kafka import KafkaException, Message, TopicPartition
from headwater_client import EVENT_TYPES, EventError, HeadwaterError, Interaction
from headwater_client.identities import Erasure, Merge, decode_identity
from headwater_client.kafka import unreachable
from headwater_client.topics import IDENTITIES, PEOPLE

from features.columns import AttributeValue
from features.events import EventReader, current_ms
from features.kafka import ask_offsets, is_end, partition_bounds, watched_config
from features.metrics import LogThrottle
from features.rules.compiler import PERSON
from features.rules.conditions import Scope
from features.rules.segments import SegmentValues
from features.schema import BoolArray, FeatureSchema, Float64Array
from features.settings import BrokerSettings
from stream.people import parse_attributes
from stream.trending import TrendingItems

ReadAttributes = Callable[[Sequence[str]], Awaitable[Sequence[Mapping[str, AttributeValue]]]]
# What an app has said of people so long before this process read of them is in the store by then.
_SAID_BEFORE_MS = 600_000
_KEPT = 64
# So many newest merges and erasures are remembered for events that are read after them.
_MAX_IDENTITIES = 10_000
_MESSAGES, _TURN, _READ_AT_ONCE = 500, 100, 200
_POLL_S, _PAUSE_S, _ANSWER_S = 0.2, 1.0, 15.0
_THIS = "this"
ValueT = TypeVar("ValueT")
log = structlog.get_logger()


class EventHorizon(NamedTuple):
    """Which events are kept.

    Attributes:
        events: the newest so many, at most.
        seconds: that Kafka took within so many seconds.
        refresh_s: how old an answer may be.
    """

    events: int
    seconds: float
    refresh_s: float = 0.0


class NumberedNames:
    """Names as numbers that are handed out in turn."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int | None:
        """The number of a name; None for one that has none."""
        return self._numbers.get(name)

    def number(self, name: str) -> int:
        """The number of a name, a new one where it has none."""
        found = self._numbers.setdefault(name, len(self.names))
        if found == len(self.names):
            self.names.append(name)
        return found


class EventWindow:
    """The newest events, oldest first out.

    Args:
        schema: what each type weighs, and takes back.
        size: how many events are kept.

    Attributes:
        people, items: their numbers.
    """

    def __init__(self, schema: FeatureSchema, size: int) -> None:
        self.people, self.items = NumberedNames(), NumberedNames()
        self._schema = schema
        self._half_life_ms = float(schema.settings.trending_half_life_ms)
        self._next = 0
        self._who, self._what = (np.full(size, -1, np.int32) for _ in range(2))
        self._time_ms, self._arrived_ms = (np.zeros(size, np.int64) for _ in range(2))
        self._weight, self._code = np.zeros(size), np.zeros(size, np.int32)
        # Of each place what names its event, so that one that was sent twice counts once.
        self._ids: list[int | None] = [None] * size
        self._known: set[int] = set()
        self._erased_ms: dict[str, int] = {}
        self._became: dict[str, str] = {}

    def add(self, event: Interaction, arrived_ms: int) -> str | None:
        """Take an event; the person who did it, None where it does not count.

        Args:
            arrived_ms: when Kafka took it.
        """
        spec = EVENT_TYPES.spec_of(event)
        person = self._became.get(event.user_id, event.user_id)
        name = hash((spec.code, event.user_id, event.event_id))
        if name in self._known or arrived_ms <= self._erased_ms.get(event.user_id, -1):
            return None
        who, what = self.people.number(person), self.items.number(event.item_id)
        time_ms, strength = event.timestamp, spec.measure_strength(event)
        # As a person's row has it: what an event stands for, and what takes one back by itself.
        code = self._schema.stands_for.get(spec.code, spec.code)
        if (taken := self._schema.takes_back.get(spec.code)) is not None:
            codes, found = (
                (self._schema.stands_for[taken], code),
                getattr(event, "taken_time", None),
            )
            if found is None:
                found = self._find_standing(who, what, codes, time_ms)
            if found is None or found > time_ms or found in self._times(who, what, code):
                # Several take back what was there once.
                return None
            time_ms, strength = found, 1.0
        elif strength < 0 or self._is_enough(who, what, code):
            return None
        at = self._next % len(self._who)
        self._forget(at)
        self._who[at], self._what[at], self._code[at] = who, what, code
        self._time_ms[at], self._arrived_ms[at] = time_ms, arrived_ms
        self._weight[at] = strength * self._schema.weight[spec.code]
        self._ids[at] = name
        self._known.add(name)
        self._next += 1
        return person

    def _forget(self, at: int) -> None:
        if (name := self._ids[at]) is not None:
            self._known.discard(name)
        self._ids[at], self._who[at], self._weight[at] = None, -1, 0.0

    def _times(self, who: int, what: int, code: int) -> list[int]:
        """When a person's events of a kind with an item happened, newest first."""
        found = (self._who == who) & (self._what == what) & (self._code == code)
        times: list[int] = self._time_ms[found].tolist()
        return sorted(times, reverse=True)

    def _find_standing(
        self, who: int, what: int, codes: tuple[int, int], time_ms: int
    ) -> int | None:
        """When the newest event happened, up to a time, that was not taken back.

        Args:
            codes: of what is taken back, and of what takes it back.
        """
        taken = Counter(self._times(who, what, codes[1]))
        for at in self._times(who, what, codes[0]):
            if at > time_ms:
                continue
            if not taken[at]:
                return at
            taken[at] -= 1
        return None

    def _is_enough(self, who: int, what: int, code: int) -> bool:
        """Whether a person's events count no more for an item: `features.item_event_limit`."""
        limit = self._schema.settings.item_event_limit
        return limit is not None and len(self._times(who, what, code)) >= limit

    def merge(self, guest: str, member: str) -> None:
        """What a guest has done, and still does, is the member's."""
        self._became[guest] = member
        _keep_newest(self._became)
        if (before := self.people.find(guest)) is not None:
            self._who[self._who == before] = self.people.number(member)

    def erase(self, person: str, arrived_ms: int) -> None:
        """Forget what a person did up to a moment."""
        self._erased_ms[person] = max(arrived_ms, self._erased_ms.get(person, -1))
        _keep_newest(self._erased_ms)
        if (found := self.people.find(person)) is not None:
            gone = (self._who == found) & (self._arrived_ms <= arrived_ms)
            for at in np.flatnonzero(gone).tolist():
                self._forget(at)

    def sum_rates(self, members: BoolArray, since_ms: int, now_ms: int) -> "SegmentTrends":
        """What the events of some people add up to.

        Args:
            members: bool[P].
            since_ms: what Kafka took before does not count.
        """
        counts = np.append(members, False)[self._who] & (self._arrived_ms >= since_ms)
        who, what = self._who[counts], self._what[counts]
        # A time to come counts as now, as in what trends.
        time_ms = np.minimum(self._time_ms[counts], now_ms)
        newest_ms = int(time_ms.max(initial=0))
        weights = self._weight[counts] * 2.0 ** -((newest_ms - time_ms) / self._half_life_ms)
        rates: Float64Array = np.bincount(what, weights, len(self.items)).astype(np.float64)
        order = np.argsort(-rates, kind="stable")[: np.count_nonzero(rates > 0)]
        names = [self.items.names[number] for number in order.tolist()]
        half_lives = np.array([self._half_life_ms])
        items = TrendingItems(names, rates[order][:, None], newest_ms, half_lives, 0)
        return SegmentTrends(items, len(np.unique(who)), self._find_since(since_ms))

    def _find_since(self, since_ms: int) -> int:
        """From when on nothing is missing: later than that where older events had to go."""
        is_full = self._next > len(self._who)
        oldest = self._arrived_ms[self._next % len(self._who)]
        return max(since_ms, int(oldest)) if is_full else since_ms

    def shrink(self) -> bool:
        """Number people and items anew where most of them have no event left; whether it did."""
        if max(len(self.people), len(self.items)) <= 2 * len(self._who):
            return False
        self.people = _renumber(self.people, self._who)
        self.items = _renumber(self.items, self._what)
        return True


def _keep_newest(said: dict[str, ValueT]) -> None:
    while len(said) > _MAX_IDENTITIES:
        del said[next(iter(said))]


def _renumber(names: NumberedNames, used: npt.NDArray[np.int32]) -> NumberedNames:
    """Names for the numbers that are used, which are changed in place; below 0 is none."""
    kept = NumberedNames()
    present = np.unique(used[used >= 0])
    changed = np.full(len(names) + 1, -1, np.int32)
    changed[present] = [kept.number(names.names[number]) for number in present.tolist()]
    used[:] = changed[used]
    return kept


class SegmentTrends(NamedTuple):
    """What is popular in a segment: by how many people, counted from when on."""

    items: TrendingItems
    people: int
    since_ms: int


@dataclass
class _Membership:
    """Whether each person is in a segment, by number, and of whom that is to be decided again."""

    is_member: bytearray = field(default_factory=bytearray)
    stale: set[int] = field(default_factory=set)


class SegmentRates:
    """Follows the log, once somebody asks, and says what is popular with some people.

    Args:
        kafka: where the log is.
        reader: which events count.
        schema: what they weigh.
        read_attributes: what apps know of people.
        horizon: which events are kept.
    """

    def __init__(
        self,
        kafka: BrokerSettings,
        reader: EventReader,
        schema: FeatureSchema,
        read_attributes: ReadAttributes,
        horizon: EventHorizon,
    ) -> None:
        self._kafka = kafka
        self._reader = reader
        self._schema = schema
        self._read_attributes = read_attributes
        self._horizon = horizon
        self._window = EventWindow(schema, 1)
        self._asked, self._caught_up = asyncio.Event(), asyncio.Event()
        # People keep their numbers while it is held.
        self._deciding = asyncio.Lock()
        self._attributes: dict[str, Mapping[str, AttributeValue]] = {}
        # In the order in which they came.
        self._unread: dict[str, None] = {}
        self._memberships: LRUCache[str, _Membership] = LRUCache(_KEPT)
        self._answers: TTLCache[str, SegmentTrends] = TTLCache(_KEPT, horizon.refresh_s)
        # Where there are too many events: when the first one came that is read of each partition.
        self._first_ms: dict[tuple[str, int], int] = {}
        self._is_cut = False
        self._failed = LogThrottle()

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._horizon.events > 0

    async def find(self, condition: str) -> SegmentTrends:
        """What is popular with the people of whom a condition is true now.

        The first time it waits until the log was read; whoever waits says for how long.
        """
        self._asked.set()
        await self._caught_up.wait()
        if (kept := self._answers.get(condition)) is not None:
            return kept
        async with self._deciding:
            members = await self._find_members(condition)
            now_ms = current_ms()
            horizon_ms = now_ms - int(1000 * self._horizon.seconds)
            since_ms = max(horizon_ms, *self._first_ms.values(), 0)
            found = self._answers[condition] = self._window.sum_rates(members, since_ms, now_ms)
        return found

    async def _find_members(self, condition: str) -> BoolArray:
        """Who is in a segment: decided for those who are new, or of whom something was said."""
        people, turn = self._window.people, 0
        known = self._memberships.setdefault(condition, _Membership())
        while known.stale or len(known.is_member) < len(people):
            number = known.stale.pop() if known.stale else len(known.is_member)
            scope: Scope = {"context": {}, PERSON: self._attributes.get(people.names[number], {})}
            # A new one's place is the next.
            known.is_member[number : number + 1] = [SegmentValues({_THIS: condition}, scope)[_THIS]]
            if (turn := turn + 1) % _TURN == 0:
                await asyncio.sleep(0)
        return np.frombuffer(bytes(known.is_member), np.bool_)

    async def run(self) -> None:
        """Follow for ever, once somebody has asked; while Kafka or the store is away it waits."""
        await self._asked.wait()
        while True:
            try:
                await self._follow()
            except HeadwaterError as error:
                if turns := self._failed.count():
                    log.warning("segments_not_followed", error=str(error), turns=turns)
                await asyncio.sleep(_PAUSE_S)

    async def _follow(self) -> None:
        """Read from the horizon on, then what comes.

        Raises:
            ServerError: Kafka or the store does not answer.
        """
        consumer = await asyncio.to_thread(self._connect)
        try:
            async with self._deciding:
                self._begin_anew()
            waiting = {(each.topic, each.partition) for each in consumer.assignment()}
            while True:
                messages = await asyncio.to_thread(consumer.consume, _MESSAGES, _POLL_S)
                for turn, message in enumerate(messages):
                    if is_end(message):
                        waiting.discard((message.topic() or "", message.partition() or 0))
                    elif message.error() is None:
                        self._take(message)
                    if turn % _TURN == _TURN - 1:
                        await asyncio.sleep(0)
                if await self._read_people() and not waiting:
                    self._caught_up.set()
                async with self._deciding:
                    if self._window.shrink():
                        self._forget_people()
        finally:
            await asyncio.to_thread(consumer.close)

    def _begin_anew(self) -> None:
        """What is read again must not stand beside what was read before."""
        self._caught_up.clear()
        self._window = EventWindow(self._schema, max(1, self._horizon.events))
        self._first_ms.clear()
        self._unread.clear()
        self._attributes.clear()
        self._memberships.clear()
        self._answers.clear()

    def _connect(self) -> confluent_kafka.Consumer:
        """A consumer behind what is too old.

        Raises:
            ServerError: Kafka does not answer.
        """
        consumer = confluent_kafka.Consumer(
            watched_config(self._kafka)
            | {
                # It is alone, is assigned its partitions, and commits nothing.
                "group.id": "headwater-segments",
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "log_level": "0",
            }
        )
        try:
            consumer.assign(self._find_start(consumer))
        except KafkaException as error:
            consumer.close()
            raise unreachable(error) from error
        except HeadwaterError:
            consumer.close()
            raise
        return consumer

    def _find_start(self, consumer: confluent_kafka.Consumer) -> list[TopicPartition]:
        """Where each partition is read from: by the horizon, and no more events than it has."""
        now_ms = current_ms()
        horizon_ms = now_ms - int(1000 * self._horizon.seconds)
        since = dict.fromkeys((*EVENT_TYPES.item_topics, IDENTITIES), horizon_ms)
        since[PEOPLE] = now_ms - _SAID_BEFORE_MS
        numbers = range(self._kafka.partitions)
        bounds = partition_bounds(self._kafka, [(name, n) for name in since for n in numbers])
        times = [TopicPartition(name, n, since[name]) for name, n in bounds]
        starts = ask_offsets(consumer, times, _ANSWER_S)
        for start in starts:
            if start.offset < 0:
                start.offset = bounds[start.topic, start.partition][1]
        of_events = [each for each in starts if each.topic in EVENT_TYPES.item_topics]
        left = [bounds[each.topic, each.partition][1] - each.offset for each in of_events]
        self._is_cut = sum(left) > self._horizon.events
        if self._is_cut:
            for start, number in zip(of_events, left, strict=True):
                # The same part of each partition.
                start.offset += number - number * self._horizon.events // sum(left)
        return starts

    def _take(self, message: Message) -> None:
        """Take a message; what is refused the worker puts aside, and says."""
        topic, raw = message.topic() or "", message.value()
        arrived_ms = self._reader.arrival_ms(message.timestamp()[1])
        value = raw.encode() if isinstance(raw, str) else raw
        with suppress(EventError):
            if topic == PEOPLE:
                key = message.key()
                self._say(*parse_attributes(key.encode() if isinstance(key, str) else key, value))
            elif topic == IDENTITIES:
                self._identify(value, arrived_ms)
            else:
                if self._is_cut:
                    self._first_ms.setdefault((topic, message.partition() or 0), arrived_ms)
                event = self._reader.read(topic, value, message.timestamp()[1])
                person = self._window.add(event, arrived_ms)
                if person is not None and person not in self._attributes:
                    self._unread[person] = None

    def _identify(self, value: bytes | None, arrived_ms: int) -> None:
        match decode_identity(value):
            case Merge(guest=guest, member=member):
                self._window.merge(guest, member)
                if member not in self._attributes:
                    self._unread[member] = None
            case Erasure(user_id=person):
                self._window.erase(person, arrived_ms)
                self._say(person, {})

    def _say(self, person: str, attributes: Mapping[str, AttributeValue]) -> None:
        """Something is said of a person; of others it is read once they do something."""
        number = self._window.people.find(person)
        if number is None:
            return
        self._attributes[person] = attributes
        self._unread.pop(person, None)
        for known in self._memberships.values():
            if number < len(known.is_member):
                known.stale.add(number)

    async def _read_people(self) -> bool:
        """Read what apps know of those who have done something; False while the store is away."""
        while self._unread:
            names = list(self._unread)[:_READ_AT_ONCE]
            try:
                found = await self._read_attributes(names)
            except HeadwaterError as error:
                if turns := self._failed.count():
                    log.warning("people_not_read", error=str(error), turns=turns)
                return False
            for name, attributes in zip(names, found, strict=True):
                self._say(name, attributes)
                self._unread.pop(name, None)
        return True

    def _forget_people(self) -> None:
        """People have other numbers now, and many are gone."""
        self._memberships.clear()
        find, said = self._window.people.find, self._attributes
        self._attributes = {name: said[name] for name in said if find(name) is not None}
