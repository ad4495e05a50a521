"""Feedback counters of a rollout's variants: those of one partition are a feature row.

B buckets of people, L latency bins, S score bins. A row holds the counters of one partition of the
topics and the offsets that they have absorbed, in one conditional write: each event counts once, as
in user and item rows. Readers see the sum over the partitions.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xxhash
from headwater_client.event_types import CLICK, PURCHASE

from features.schema import BoolArray, Float64Array, Int64Array
from features.topics import Hash

BUCKETS = 64
_SEEN = "/seen"
# Each bin of latencies is 15 % above the one before, from 1 ms to more than a minute.
LATENCY_BINS, LATENCY_GROWTH = 80, 1.15
# Scores are logits: bins half a unit wide, the outer ones open.
SCORE_BINS, SCORE_WIDTH, SCORE_LOWEST = 96, 0.5, -24.0
# Of the bitmaps that different items, and different people, are counted with.
ITEM_BITS = PEOPLE_BITS = 8192


def bucket_of(rollout_id: str, user_id: str) -> int:
    """The bucket of a person, independent of the hash that assigns people to variants.

    >>> 0 <= bucket_of("r1", "ann") < BUCKETS
    True
    """
    return _person_hash(rollout_id, user_id) % BUCKETS


def name_seen(variant: str) -> str:
    """What a row calls the counters of a variant's lists that were really seen.

    >>> name_seen("canary")
    'canary/seen'
    """
    return f"{variant}{_SEEN}"


def bit_of(rollout_id: str, user_id: str) -> int:
    """The person's place in the bitmap of people."""
    return _person_hash(rollout_id, user_id) // BUCKETS % PEOPLE_BITS


def _person_hash(rollout_id: str, user_id: str) -> int:
    return xxhash.xxh3_64_intdigest(f"bucket/{rollout_id}/{user_id}")


@dataclass(frozen=True)
class VariantList:
    """One list that a variant put together: shown to a person, or made in shadow mode.

    Attributes:
        bucket: of the person.
        items: their hashes, best first.
        score: of the first place; None where no version gave one.
        latency_ms: of the variant's own version; None where it was not asked.
        failed: whether the variant's own version did not answer.
        fallback: whether no version answered.
        short: whether fewer items may be shown than were asked for.
        first: whether it is the variant's first one for this person within the credit window.
        covers: whether its items count as shown.
        person: the person's place in the bitmap of people; None: not counted.
    """

    bucket: int
    items: Sequence[Hash]
    score: float | None = None
    latency_ms: float | None = None
    failed: bool = False
    fallback: bool = False
    short: bool = False
    first: bool = True
    covers: bool = True
    person: int | None = None


# Every counter by name, and which lists it counts; None: it counts interactions instead.
# Rows store them in this order: append only. In a row of an older release a new counter is 0.
COUNTERS: dict[str, Callable[[VariantList], bool] | None] = {
    "clicked": None,
    "bought": None,
    "requests": lambda _: True,
    "failed": lambda made: made.failed,
    "fallbacks": lambda made: made.fallback,
    "covers": lambda made: made.covers,
    "earned": None,
    "short": lambda made: made.short,
}


_COUNTED_INTERACTIONS = {CLICK.code: "clicked", PURCHASE.code: "bought"}


def empty_counts() -> dict[str, int]:
    """Every counter of `COUNTERS` at 0."""
    return dict.fromkeys(COUNTERS, 0)


@dataclass
class VariantCounters:
    """What one variant has shown and earned so far.

    Attributes:
        shown: float64[B], lists by bucket.
        reward: float64[B], what people did with them, discounted by position.
        counts: by the names of `COUNTERS`.
        latencies: int64[L], of the answers of the variant's version.
        scores: int64[S], of first places, one a person and visit.
        items: bool[ITEM_BITS], a bitmap of the items shown.
        people: bool[PEOPLE_BITS], a bitmap of those who got them.
    """

    shown: Float64Array = field(default_factory=lambda: np.zeros(BUCKETS))
    reward: Float64Array = field(default_factory=lambda: np.zeros(BUCKETS))
    counts: dict[str, int] = field(default_factory=empty_counts)
    latencies: Int64Array = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))
    scores: Int64Array = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    items: BoolArray = field(default_factory=lambda: np.zeros(ITEM_BITS, np.bool_))
    people: BoolArray = field(default_factory=lambda: np.zeros(PEOPLE_BITS, np.bool_))

    def add_list(self, made: VariantList) -> None:
        """Count one list. A person's scores are alike, so only the first of a visit counts."""
        for name, is_counted in COUNTERS.items():
            if is_counted is not None and is_counted(made):
                self.counts[name] += 1
        self.shown[made.bucket] += 1
        if made.latency_ms is not None:
            self.latencies[latency_bin(made.latency_ms)] += 1
        if made.first and made.score is not None and not made.failed:
            self.scores[score_bin(made.score)] += 1
        if made.person is not None:
            self.people[made.person] = True
        if made.covers:
            for item in made.items:
                self.items[item % ITEM_BITS] = True

    def add_reward(self, bucket: int, reward: float, event_code: int) -> None:
        """Count what somebody did with a recommended item: an event of the type with this code."""
        self.reward[bucket] += reward
        self.counts["earned"] += 1
        if event_code in _COUNTED_INTERACTIONS:
            self.counts[_COUNTED_INTERACTIONS[event_code]] += 1

    def coverage(self) -> int:
        """Different items shown, about."""
        return round(estimate_distinct(self.items))


def estimate_distinct(bitmap: BoolArray) -> float:
    """How many different things have set the bits of a bitmap, about: linear counting.

    K. Whang, B. Vander-Zanden, H. Taylor, "A linear-time probabilistic counting algorithm for
    database applications", ACM TODS 15, 1990.
    """
    free = len(bitmap) - int(bitmap.sum())
    return -len(bitmap) * math.log(max(free, 1) / len(bitmap))


def sum_counters(parts: Iterable[VariantCounters]) -> VariantCounters:
    """The counters of several partitions as one."""
    total = VariantCounters()
    for part in parts:
        total.shown += part.shown
        total.reward += part.reward
        total.counts = {name: total.counts[name] + part.counts[name] for name in total.counts}
        total.latencies += part.latencies
        total.scores += part.scores
        total.items |= part.items
        total.people |= part.people
    return total


def sum_rows(rows: "Sequence[FeedbackRow]") -> dict[str, VariantCounters]:
    """The counters by variant, those of all partitions together."""
    variants = sorted({variant for row in rows for variant in row.counters})
    return {
        variant: sum_counters(row.counters[variant] for row in rows if variant in row.counters)
        for variant in variants
    }


@dataclass
class FeedbackRow:
    """What one partition has counted.

    Attributes:
        counters: by variant.
        offsets: the offset absorbed of each source.
        until_ms: the broker's time of the newest message absorbed.
    """

    counters: dict[str, VariantCounters]
    offsets: dict[Hash, int]
    until_ms: int = 0

    def variant(self, name: str) -> VariantCounters:
        """The counters of a variant, new ones where nothing was counted yet."""
        return self.counters.setdefault(name, VariantCounters())


class Placement(NamedTuple):
    """Of so many of the newest interactions, how many are in another partition than their
    person's recommendations: those are credited to nothing.
    """

    sampled: int
    elsewhere: int


def latency_bin(latency_ms: float) -> int:
    """The bin of a latency: 0 holds what is below 1 ms.

    >>> latency_bin(0.5), latency_bin(1.1), latency_bin(1e9) == LATENCY_BINS - 1
    (0, 1, True)
    """
    if latency_ms < 1:
        return 0
    return min(LATENCY_BINS - 1, 1 + int(math.log(latency_ms) / math.log(LATENCY_GROWTH)))


def quantile_ms(latencies: Int64Array, share: float) -> float:
    """The quantile of latencies, rounded up to the edge of its bin; 0 without any."""
    total = int(latencies.sum())
    if not total:
        return 0.0
    bin_number = int(np.searchsorted(np.cumsum(latencies), share * total))
    return float(LATENCY_GROWTH**bin_number)


def score_bin(score: float) -> int:
    """The bin of a score.

    >>> score_bin(-1e9), score_bin(0.0), score_bin(1e9)
    (0, 48, 95)
    """
    return int(min(SCORE_BINS - 1, max(0, (score - SCORE_LOWEST) // SCORE_WIDTH)))
