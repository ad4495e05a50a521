"""Rates that their past does not allow: of many series at once, found while it happens.

    people of a tick ─▶ what was expected ─▶ evidence ─▶ over the threshold? an alarm, and anew
    (each once)         (share of the past,   (gathered
                         times how many come)  since it began)

**Counted** are people, not events: who takes a series, and has not done so in the last
`takers.VISIT_TICKS` ticks.

**Expected** is a series' share of all counts so far, decayed, of those of this tick: a busy hour is
no anomaly of each item, and neither is one person who takes a hundred. How far counts scatter
around it is measured over all series, tick by tick and over longer stretches.

**Evidence** is a likelihood ratio: a rate several times what is tolerated, over the largest that is
(`TOLERATED` times what was expected, or the smallest), both negative binomial. Its expectation is
at most 1 while the rate is tolerated. Gathered as M = (1 + M) * ratio (A. N. Shiryaev 1963, S. W.
Roberts 1966), M exceeds c in T ticks at most T / c times in expectation, however often one looks: M
less the number of ticks is a supermartingale. This is an e-detector (J. Shin, A. Ramdas, A.
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2022). With c =
series * ticks of a week / false alarms allowed, all series together raise at most so many in a week
in expectation, whatever their dependence. When it began is where its sum of ratios was least (E. S.
Page's CUSUM, 1954).

S series, A alternatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.schema import BoolArray, Float64Array

TOLERATED = 1.5
"""A rate within so many times of what was expected, or a part, is nothing to be told of."""

MAX_SERIES = 20_000
WEEK_S = 7 * 86_400.0
# Of what was expected.
_SURGES, _DROPS = (3.0, 6.0, 15.0, 50.0), (1 / 3, 1 / 12)
# What a series without a past is taken for: half an event, at the mean rate of all.
_PRIOR = 0.5
# Ticks of a past before which nothing can be outside of it.
_LEAST_TICKS = 30
_STRETCH = 30
# Before scatter is known it is taken for so much, as if seen on so many squared events.
_FIRST_DISPERSION, _FIRST_WEIGHT = 1.0, 50.0
_LARGEST_DISPERSION = 20.0
# A sum of ratios that chance does not bring in a day.
_CALM = 9.0
# Of all that is usual: what calm series must be of it to say how much is done now.
_LEAST_CALM = 0.2


class AlarmDirection(StrEnum):
    """Where a rate went."""

    SURGE = "surge"
    DROP = "drop"


@dataclass(frozen=True)
class RateAlarm:
    """A series whose rate its past does not allow.

    Attributes:
        since_ms: when its evidence began to gather: about when it changed.
        at_ms: the end of the tick that raised it.
        rate, expected: people an hour, since it changed, and by its past.
    """

    name: str
    direction: AlarmDirection
    since_ms: int
    at_ms: int
    rate: float
    expected: float


@dataclass(frozen=True)
class WatchRules:
    """How a watch works.

    Attributes:
        tick_s: of each tick.
        memory_s: half-life of the past.
        false_alarms_per_week: over all its series, at most, in expectation.
        follows_level: whether what all series do is no news; not of a single series.
    """

    tick_s: float
    memory_s: float
    false_alarms_per_week: float
    follows_level: bool = True


class RateWatch:
    """Watches the counts of many series, one tick after another."""

    def __init__(self, rules: WatchRules) -> None:
        self._rules = rules
        self._left = 0.5 ** (rules.tick_s / rules.memory_s)
        self._codes: dict[str, int] = {}
        self._scatter = _Scatter()
        self._past = _SeriesColumns()
        # Of all series together, decayed: the sum of counts, and of levels.
        self._counts = self._exposure = 0.0

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, counts: Mapping[str, int], at_ms: int) -> list[RateAlarm]:
        """Add a tick.

        Args:
            counts: people in it, of the series that somebody has taken.
            at_ms: its end.

        Returns:
            Alarms. A series that goes on raises another when as much evidence has come anew.
        """
        self._begin([name for name in counts if name not in self._codes], at_ms)
        seen = np.zeros(len(self._codes))
        for name, count in counts.items():
            # Of more new ones in a tick than there is room for the last are not watched yet.
            if (at := self._codes.get(name)) is not None:
                seen[at] = count
        if not len(seen):
            return []
        past = self._past
        rates = self._read_rates()
        level = self._find_level(seen)
        expected = level.now * rates
        scatter = self._scatter.dispersion + 1 / (past.events + _PRIOR)
        is_known = past.ticks >= _LEAST_TICKS
        ratios = _ratios(seen, level.most * rates, level.least * rates, 1 / scatter)
        past.gather(ratios, is_known)
        past.follow_course(seen, at_ms)
        alarms = self._raise(expected, at_ms)
        if level.now > 0:
            self._scatter.add(seen, expected, is_known & past.is_calm)
        self._learn(seen, expected, level.now)
        return alarms

    @property
    def threshold(self) -> float:
        """What the logarithm of gathered evidence is compared with."""
        ticks = WEEK_S / self._rules.tick_s
        return float(np.log(max(1, len(self._codes)) * ticks / self._rules.false_alarms_per_week))

    def _begin(self, names: Sequence[str], at_ms: int) -> None:
        names = names[: MAX_SERIES // 2]
        if len(self._codes) + len(names) > MAX_SERIES:
            kept = np.sort(np.argsort(-self._past.events, kind="stable")[: MAX_SERIES // 2])
            known = list(self._codes)
            self._codes = {known[old]: new for new, old in enumerate(kept.tolist())}
            self._past.keep(kept)
            self._scatter.keep(kept)
        for name in names:
            self._codes[name] = len(self._codes)
        self._past.append(len(names), at_ms)
        self._scatter.append(len(names))

    def _read_rates(self) -> Float64Array:
        """Events a tick at a level of 1, float64[S]; of a new series about the mean of all."""
        past = self._past
        mean = past.events.sum() / max(past.exposure.sum(), 1e-9)
        prior = _PRIOR / max(mean, 1e-9)
        rates: Float64Array = (past.events + _PRIOR) / (past.exposure + prior)
        return rates

    def _find_level(self, seen: Float64Array) -> "_Level":
        """How much is done, by the series that are as ever; none can say so alone."""
        if not self._rules.follows_level or not self._counts:
            return _Level(1.0, 1.0, 1.0)
        past = self._past
        each = past.events / np.maximum(past.exposure, 1e-9)
        calm = past.is_calm
        usual = self._counts / self._exposure - float(each[~calm].sum())
        if usual < _LEAST_CALM * self._counts / self._exposure:
            # Hardly anything is calm: then all are asked.
            calm, usual = np.ones_like(calm), self._counts / self._exposure
        done = float(np.minimum(seen, 2 * each + 3)[calm].sum())
        # As if one more were usual, and had come: of what little is done not much can be told.
        found, one_more = done / usual, (done + 1) / (usual + 1)
        return _Level(found, min(found, one_more), max(found, one_more))

    def _learn(self, seen: Float64Array, expected: Float64Array, level: float) -> None:
        """Add the tick to the past; what is far beyond it in part, or it would be normal soon."""
        past = self._past
        tolerated = TOLERATED * expected
        most = tolerated + 3 * np.sqrt(tolerated * (1 + self._scatter.dispersion * tolerated)) + 1
        kept = np.where(past.ticks < _LEAST_TICKS, seen, np.minimum(seen, most))
        past.events = past.events * self._left + kept
        self._counts = self._counts * self._left + float(kept.sum())
        self._exposure = self._exposure * self._left + level
        past.exposure = past.exposure * self._left + level
        past.ticks += 1

    def _raise(self, expected: Float64Array, at_ms: int) -> list[RateAlarm]:
        past, an_hour = self._past, 3600 / self._rules.tick_s
        over = np.flatnonzero(past.statistic() > self.threshold)
        if not len(over):
            return []
        names = list(self._codes)
        alarms = []
        for at in over.tolist():
            best = int(past.course[:, at].argmax())
            is_surge = best < len(_SURGES)
            alarms.append(
                RateAlarm(
                    names[at],
                    AlarmDirection.SURGE if is_surge else AlarmDirection.DROP,
                    int(past.since_ms[best, at]),
                    at_ms,
                    float(past.gained[best, at] / max(1.0, past.lasted[best, at]) * an_hour),
                    float(expected[at] * an_hour),
                )
            )
        past.evidence[:, over] = -np.inf
        return alarms


class _Level(NamedTuple):
    """How much is done, as a part of what is usual: about, at least, and at most."""

    now: float
    least: float
    most: float


def _ratios(
    seen: Float64Array, most: Float64Array, least: Float64Array, size: Float64Array
) -> Float64Array:
    """Logarithms of likelihood ratios of negative binomials of one size, float64[A, S].

    Args:
        most, least: what is expected, where a surge is looked for and where a drop is.
    """
    rows = []
    for times in (*_SURGES, *_DROPS):
        expected = most if times > 1 else least
        edge = expected * (TOLERATED if times > 1 else 1 / TOLERATED)
        other = expected * times
        gain = np.log(times / (TOLERATED if times > 1 else 1 / TOLERATED))
        rows.append(seen * gain - (size + seen) * np.log((size + other) / (size + edge)))
    return np.stack(rows)


class _SeriesColumns:
    """What is kept of each series.

    Attributes:
        events, exposure: float64[S], decayed: people, and the sum of levels.
        ticks: float64[S], since the first event.
        evidence: float64[A, S], logarithms.
        course: float64[A, S], the sum of ratios since it was least.
        since_ms, lasted, gained: float64[A, S], when that was; ticks and events since.
    """

    def __init__(self) -> None:
        shape = len(_SURGES) + len(_DROPS), 0
        self.events, self.exposure, self.ticks = np.zeros((3, 0))
        self.evidence, self.course, self.since_ms, self.lasted, self.gained = np.zeros((5, *shape))

    def append(self, count: int, at_ms: int) -> None:
        """So many more series."""
        if not count:
            return
        nothing = np.zeros(count)
        self.events, self.exposure, self.ticks = (
            np.append(each, nothing) for each in (self.events, self.exposure, self.ticks)
        )
        blank = np.zeros((len(self.evidence), count))
        self.evidence, self.course, self.since_ms, self.lasted, self.gained = (
            np.concatenate([each, blank + start], 1)
            for each, start in (
                (self.evidence, -np.inf),
                (self.course, 0.0),
                (self.since_ms, at_ms),
                (self.lasted, 0.0),
                (self.gained, 0.0),
            )
        )

    def keep(self, kept: npt.NDArray[np.int64]) -> None:
        """Only these series."""
        self.events, self.exposure, self.ticks = (
            each[kept] for each in (self.events, self.exposure, self.ticks)
        )
        self.evidence, self.course, self.since_ms, self.lasted, self.gained = (
            each[:, kept]
            for each in (self.evidence, self.course, self.since_ms, self.lasted, self.gained)
        )

    def gather(self, ratios: Float64Array, is_known: BoolArray) -> None:
        """M = (1 + M) * ratio, in logarithms, of series with a past."""
        gathered = np.logaddexp(0.0, self.evidence) + ratios
        self.evidence = np.where(is_known, gathered, -np.inf)
        self.course = np.where(is_known, np.maximum(0.0, self.course + ratios), 0.0)

    def follow_course(self, seen: Float64Array, at_ms: int) -> None:
        """Note where the course of each begins anew."""
        ended = self.course <= 0
        self.since_ms = np.where(ended, at_ms, self.since_ms)
        self.lasted = np.where(ended, 0.0, self.lasted + 1)
        self.gained = np.where(ended, 0.0, self.gained + seen)

    def statistic(self) -> Float64Array:
        """The logarithm of the mean evidence over alternatives, float64[S]."""
        most = self.evidence.max(0)
        finite = np.where(np.isfinite(most), most, 0.0)
        with np.errstate(divide="ignore"):
            found: Float64Array = finite + np.log(np.exp(self.evidence - finite).mean(0))
        return found

    @property
    def is_calm(self) -> BoolArray:
        """Series whose counts say nothing of a change."""
        calm: BoolArray = self.course.max(0) < _CALM
        return calm


class _Scatter:
    """By how much counts scatter more than Poisson counts, over all series.

    Of a tick alone and of stretches of ticks: bursts that last (a session, a bulk order) show only
    in these. The larger counts, as the dispersion of a tick: var = mean + dispersion * mean**2.
    """

    def __init__(self) -> None:
        self._tick, self._stretch = np.array([_FIRST_DISPERSION, 1.0]), np.array([0.0, 0.0])
        self._tick *= _FIRST_WEIGHT
        self._seen, self._expected = np.zeros(0), np.zeros(0)
        self._ticks = 0

    @property
    def dispersion(self) -> float:
        """The larger of the two."""
        found = [self._tick[0] / self._tick[1]]
        if self._stretch[1] > 0:
            found.append(_STRETCH * self._stretch[0] / self._stretch[1])
        return float(min(_LARGEST_DISPERSION, max(0.05, *found)))

    def append(self, count: int) -> None:
        """So many more series."""
        nothing = np.zeros(count)
        self._seen, self._expected = (
            np.append(each, nothing) for each in (self._seen, self._expected)
        )

    def keep(self, kept: npt.NDArray[np.int64]) -> None:
        """Only these series."""
        self._seen, self._expected = self._seen[kept], self._expected[kept]

    def add(self, seen: Float64Array, expected: Float64Array, calm: BoolArray) -> None:
        """Add a tick of the series that are as ever."""
        self._tick = 0.9995 * self._tick + _moments(seen[calm], expected[calm])
        self._seen += np.where(calm, seen, expected)
        self._expected += expected
        self._ticks += 1
        if self._ticks == _STRETCH:
            self._stretch = 0.98 * self._stretch + _moments(self._seen, self._expected)
            self._seen[:] = self._expected[:] = 0.0
            self._ticks = 0


def _moments(seen: Float64Array, expected: Float64Array) -> Float64Array:
    return np.array([((seen - expected) ** 2 - expected).sum(), (expected**2).sum()])
