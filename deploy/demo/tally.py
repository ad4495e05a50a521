"""What the demo has seen so far: throughput, latency, hits, dead letters, fallbacks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from headwater_client.events import Interaction, Recommendation

from deploy.demo.follow_ups import PLACES, FollowUp

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

    follow_ups: Mapping[str, FollowUp]
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

    def _judge_answer(self, answer: Recommendation, after: FollowUp) -> None:
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
