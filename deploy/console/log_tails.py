"""The newest messages of topics: a look at a log that is too long to be read.

    partition 0   ........................|======|
    partition 1   ..........|====================|
    partition 2                              |===|     fewer than its share: all of it

Of each partition the same number of newest messages is read, and all of one that has fewer; what
such a one leaves free the others get. Nothing is read from its beginning, and nothing is committed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, Message
from headwater_client.kafka import unreachable

from features import kafka
from features.settings import BrokerSettings

# Less than a page waits, so that it can say which server is away.
ANSWER_S = 4.0
# Dead letters may have 4 MiB each: no more of them wait in memory than this, about.
_QUEUE_KB = 32_768
Place = tuple[str, int]
Reach = tuple[int, int]


class TailPlan(NamedTuple):
    """What is to be read.

    Attributes:
        reaches: the first offset of each partition, and the one after the last.
        in_log: how many offsets Kafka has of all of these partitions.
        skipped: how many lie between what was read before and what is now.
    """

    reaches: Mapping[Place, Reach]
    in_log: int
    skipped: int = 0

    @property
    def messages(self) -> int:
        """How many messages there are to read, at most."""
        return sum(end - start for start, end in self.reaches.values())


def share_out(most: int, sizes: Sequence[int]) -> list[int]:
    """How many of each are taken, so that the least is as large as it can be.

    >>> share_out(10, [100, 2, 100])
    [4, 2, 4]
    """
    given = [0] * len(sizes)
    left = most
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    for turn, place in enumerate(by_size):
        given[place] = min(sizes[place], left // (len(sizes) - turn))
        left -= given[place]
    return given


def plan_tails(
    settings: BrokerSettings,
    topics: Sequence[str],
    most: int,
    behind: Mapping[Place, int] | None = None,
) -> TailPlan:
    """Which messages are the newest.

    Args:
        most: how many are read of all partitions together.
        behind: by partition, the offset before which all was read already.

    Raises:
        ServerError: Kafka does not answer.
    """
    with closing(_make_consumer(settings)) as consumer:
        try:
            there = consumer.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise unreachable(error) from error
    places = [
        (name, number)
        for name in topics
        if name in there and there[name].error is None
        for number in sorted(there[name].partitions)
    ]
    bounds = kafka.partition_bounds(settings, places)
    begins = {
        place: _find_begin(reach, (behind or {}).get(place)) for place, reach in bounds.items()
    }
    sizes = [bounds[place][1] - begins[place] for place in places]
    given = share_out(most, sizes)
    reaches = {
        place: (bounds[place][1] - number, bounds[place][1])
        for place, number in zip(places, given, strict=True)
    }
    in_log = sum(end - first for first, end in bounds.values())
    skipped = sum(sizes) - sum(given) if behind else 0
    return TailPlan(reaches, in_log, skipped)


def _find_begin(reach: Reach, behind: int | None) -> int:
    """Where what is new begins; of a partition that is shorter than before, all is new."""
    first, end = reach
    return first if behind is None or behind > end else max(first, behind)


def read_tails(settings: BrokerSettings, plan: TailPlan) -> Iterator[Message]:
    """The messages of a plan, those of a partition in order; no more than a few are held.

    Raises:
        ServerError: Kafka does not answer, or says why a partition cannot be read.
    """
    yield from kafka.read_ranges(partial(_make_consumer, settings), plan.reaches, ANSWER_S)


def find_message(settings: BrokerSettings, topic: str, place: tuple[int, int]) -> Message | None:
    """The message at a partition and offset; None where there is none, or no longer one.

    Raises:
        ServerError: Kafka does not answer.
    """
    partition, offset = place
    ends = plan_tails(settings, [topic], 0).reaches
    if offset >= ends.get((topic, partition), (0, 0))[1]:
        return None
    plan = TailPlan({(topic, partition): (offset, offset + 1)}, 1)
    return next(iter(read_tails(settings, plan)), None)


def _make_consumer(settings: BrokerSettings) -> Consumer:
    options = {"queued.max.messages.kbytes": str(_QUEUE_KB)}
    return kafka.topic_consumer(settings, "headwater-console", options)
