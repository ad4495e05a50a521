"""Drift: a feature's or a score's distribution is no longer that of the reference window.

    block 1 .. block n: the reference               the two newest blocks
    each against the others of it ──▶ what blocks   each against all of it ──▶ two indices
    differ by anyhow: the threshold                 both larger than that, and than .1? an alert

The population stability index says how far two distributions differ. "Above .1" and "above .25" (N.
Siddiqi, "Credit risk scorecards", 2006) are said of it without regard to how many were counted, or
how much such a distribution moves from hour to hour anyhow. So the threshold is the log's own: the
largest index that a block of the reference had against the others. While nothing changes, any two
of n + 2 blocks are as likely the two largest: a false alarm comes in 2 of (n + 1)(n + 2) blocks at
most (the argument of conformal anomaly detection; R. Laxhammar, G. Falkman, 2015). And below .1
nobody would act.

B bins.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.schema import Float64Array

LEAST_BLOCKS = 8
"""Blocks of the reference before which nothing is said."""

MAX_BLOCKS = 168
"""A week of hourly windows."""

LEAST_INDEX = 0.1
MAX_BINS = 20
OTHER = "other"
# Added to each bin, so that none is empty: Jeffreys' prior.
_PRIOR = 0.5

Distribution = Mapping[str, float]
"""How many by bin."""


@dataclass(frozen=True)
class DriftReport:
    """How one distribution stands.

    Attributes:
        index, index_before: population stability index of the newest block and of the one before
            it against the reference.
        threshold: what both have to exceed.
        blocks: of the reference.
        reference, current: the share of each bin.
        missing: why nothing can be said; "" where it can.
    """

    name: str
    index: float = 0.0
    index_before: float = 0.0
    threshold: float = LEAST_INDEX
    blocks: int = 0
    reference: Mapping[str, float] = field(default_factory=dict)
    current: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""

    @property
    def has_drifted(self) -> bool:
        """Whether it is an alert: two blocks in a row are unlike the reference."""
        return not self.missing and min(self.index, self.index_before) > self.threshold


def measure_stability(current: Float64Array, reference: Float64Array) -> float:
    """The population stability index of two distributions, counts by bin, float64[B].

    >>> measure_stability(np.array([50.0, 50.0]), np.array([500.0, 500.0]))
    0.0
    >>> round(measure_stability(np.array([90.0, 10.0]), np.array([500.0, 500.0])), 2)
    0.85
    """
    ours, theirs = ((each + _PRIOR) / (each + _PRIOR).sum() for each in (current, reference))
    return float(((ours - theirs) * np.log(ours / theirs)).sum())


def report_drift(
    name: str, reference: Sequence[Distribution], newest: Sequence[Distribution]
) -> DriftReport:
    """How the two newest blocks stand to those of the reference.

    Args:
        newest: at most two, oldest first.
    """
    if len(reference) < LEAST_BLOCKS or not newest:
        missing = f"too little to compare with yet: {len(reference)} of {LEAST_BLOCKS} blocks"
        return DriftReport(name, blocks=len(reference), missing=missing)
    bins = _choose_bins(reference)
    known = _count_bins(reference, bins)
    whole = known.sum(0)
    usual = [measure_stability(block, whole - block) for block in known]
    counts = _count_bins(newest, bins)
    indices = [measure_stability(block, whole) for block in counts]
    names = [*bins, OTHER]
    return DriftReport(
        name,
        indices[-1],
        indices[0] if len(indices) > 1 else 0.0,
        max(LEAST_INDEX, *usual),
        len(reference),
        dict(zip(names, (whole / whole.sum()).tolist(), strict=True)),
        dict(zip(names, (counts[-1] / counts[-1].sum()).tolist(), strict=True)),
    )


def _choose_bins(reference: Iterable[Distribution]) -> list[str]:
    """The bins of which the reference has most; the others are one."""
    totals: dict[str, float] = {}
    for block in reference:
        for name, count in block.items():
            totals[name] = totals.get(name, 0.0) + count
    return sorted(totals, key=lambda name: (-totals[name], name))[:MAX_BINS]


def _count_bins(blocks: Iterable[Distribution], bins: Sequence[str]) -> Float64Array:
    """The counts of each block, float64[blocks, bins and what is other]."""
    rows = []
    for block in blocks:
        counted = [block.get(name, 0.0) for name in bins]
        rows.append([*counted, max(0.0, sum(block.values()) - sum(counted))])
    return np.array(rows)


class DriftWatch:
    """Follows several distributions, block by block.

    What an alert was raised of stays out of the reference. When it has lasted for `LEAST_BLOCKS`
    blocks it is how things are now, and the reference begins anew with them.
    """

    def __init__(self) -> None:
        self._reference: dict[str, deque[Distribution]] = {}
        self._newest: dict[str, deque[Distribution]] = {}
        self._strayed: dict[str, list[Distribution]] = {}

    def add(self, name: str, block: Distribution) -> None:
        """Add the newest block of a distribution; an empty one says nothing."""
        if sum(block.values()) <= 0:
            return
        newest = self._newest.setdefault(name, deque())
        newest.append(block)
        if len(newest) <= 2:
            return
        reference = self._reference.setdefault(name, deque(maxlen=MAX_BLOCKS))
        strayed = self._strayed.setdefault(name, [])
        before = list(newest)[:2]
        oldest = newest.popleft()
        # The oldest has one beside it by now: whether it was chance is known.
        if not report_drift(name, reference, before).has_drifted:
            reference.append(oldest)
            strayed.clear()
            return
        strayed.append(oldest)
        if len(strayed) >= LEAST_BLOCKS:
            self._reference[name] = deque(strayed, MAX_BLOCKS)
            self._strayed[name] = []

    def forget(self, name: str) -> None:
        """Follow a distribution no more."""
        for kept in (self._reference, self._newest, self._strayed):
            kept.pop(name, None)

    def reports(self) -> list[DriftReport]:
        """How each stands, by name."""
        return [
            report_drift(name, list(self._reference.get(name, ())), list(newest))
            for name, newest in sorted(self._newest.items())
        ]


def bin_numbers(values: Float64Array) -> Distribution:
    """Positive numbers of any size by powers of 2, and 0: bins that need no reference.

    >>> bin_numbers(np.array([0.0, 3.0, 3.5, 900.0]))
    {'0': 1.0, '2 to 4': 2.0, '512 to 1024': 1.0}
    """
    powers = np.floor(np.log2(np.maximum(values, 2.0**-20)))
    found, counts = np.unique(np.where(values <= 0, -np.inf, powers), return_counts=True)
    return {
        _name_power(power): float(count)
        for power, count in zip(found.tolist(), counts.tolist(), strict=True)
    }


def _name_power(power: float) -> str:
    return "0" if power == -np.inf else f"{2.0**power:g} to {2.0 ** (power + 1):g}"
