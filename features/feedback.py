"""What feedback says of the variants of a rollout: counters of one partition, as a feature row.

B buckets of people, L latency bins, S score bins. A row holds the counters of one partition of the
topics and the offsets that they have absorbed, in one conditional write: each event counts once, as
in user and item rows. Readers see the sum over the partitions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from features.topics import Hash, hash64

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BUCKETS = 64
# Each bin of latencies is 15 % above the one before, from 1 ms to more than a minute.
LATENCY_BINS, LATENCY_GROWTH = 80, 1.15
# Scores are logits: bins half a unit wide, the outer ones open.
SCORE_BINS, SCORE_WIDTH, SCORE_LOWEST = 96, 0.5, -24.0
ITEM_BITS = 8192


def bucket_of(rollout_id: str, user_id: str) -> int:
    """The bucket of a person: nothing to do with the place that decides on the variant.

    >>> 0 <= bucket_of("r1", "ann") < BUCKETS
    True
    """
    return xxhash.xxh3_64_intdigest(f"bucket/{rollout_id}/{user_id}") % BUCKETS


@dataclass
class Counters:
    """One variant so far.

    Attributes:
        shown: float[B], recommendations by bucket.
        reward: float[B], what people did with them, discounted by position.
        clicked, bought: recommended items that were.
        requests: recommendations and failures to make one.
        failed: that the variant's own version did not answer.
        fallbacks: that no version answered.
        latencies: int[L], of the version's answers.
        scores: int[S], of first places, one a person and visit.
        items: bool[ITEM_BITS], a bitmap of the items shown.
    """

    shown: Floats = field(default_factory=lambda: np.zeros(BUCKETS))
    reward: Floats = field(default_factory=lambda: np.zeros(BUCKETS))
    clicked: int = 0
    bought: int = 0
    requests: int = 0
    failed: int = 0
    fallbacks: int = 0
    latencies: Ints = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))
    scores: Ints = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    items: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(ITEM_BITS, np.bool_))

    def show(
        self,
        bucket: int,
        items: Iterable[str],
        *,
        score: float | None,
        latency_ms: float | None,
        failed: bool,
        fallback: bool,
    ) -> None:
        """Count one recommendation."""
        self.requests += 1
        self.failed += failed
        self.fallbacks += fallback
        self.shown[bucket] += 1
        if latency_ms is not None:
            self.latencies[latency_bin(latency_ms)] += 1
        if score is not None and not failed:
            self.scores[score_bin(score)] += 1
        for item_id in items:
            self.items[hash64(item_id) % ITEM_BITS] = True

    def earn(self, bucket: int, reward: float, *, bought: bool) -> None:
        """Count what somebody did with a recommended item."""
        self.reward[bucket] += reward
        if bought:
            self.bought += 1
        else:
            self.clicked += 1

    def coverage(self) -> int:
        """Different items shown, about: linear counting.

        K. Whang, B. Vander-Zanden, H. Taylor, "A linear-time probabilistic counting algorithm for
        database applications", ACM TODS 15, 1990.
        """
        free = ITEM_BITS - int(self.items.sum())
        return round(-ITEM_BITS * math.log(max(free, 1) / ITEM_BITS))


def summed(counters: Sequence[Counters]) -> Counters:
    """The counters of several partitions as one."""
    total = Counters()
    for one in counters:
        total.shown += one.shown
        total.reward += one.reward
        total.clicked += one.clicked
        total.bought += one.bought
        total.requests += one.requests
        total.failed += one.failed
        total.fallbacks += one.fallbacks
        total.latencies += one.latencies
        total.scores += one.scores
        total.items |= one.items
    return total


@dataclass
class FeedbackRow:
    """What one partition has counted.

    Attributes:
        counters: by variant.
        offsets: the offset absorbed of each source.
        until_ms: the broker's time of the newest message absorbed.
    """

    counters: dict[str, Counters]
    offsets: dict[Hash, int]
    until_ms: int = 0

    def of(self, variant: str) -> Counters:
        """The counters of a variant, new ones where nothing was counted yet."""
        return self.counters.setdefault(variant, Counters())


def latency_bin(latency_ms: float) -> int:
    """The bin of a latency: 0 holds what is below 1 ms.

    >>> latency_bin(0.5), latency_bin(1.1), latency_bin(1e9) == LATENCY_BINS - 1
    (0, 1, True)
    """
    if latency_ms < 1:
        return 0
    return min(LATENCY_BINS - 1, 1 + int(math.log(latency_ms) / math.log(LATENCY_GROWTH)))


def quantile_ms(latencies: Ints, share: float) -> float:
    """The upper edge of the bin in which so large a share of latencies ends; 0 without any."""
    total = int(latencies.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(latencies), share * total))
    return float(LATENCY_GROWTH**place)


def score_bin(score: float) -> int:
    """The bin of a score.

    >>> score_bin(-1e9), score_bin(0.0), score_bin(1e9)
    (0, 48, 95)
    """
    return int(min(SCORE_BINS - 1, max(0, (score - SCORE_LOWEST) // SCORE_WIDTH)))
