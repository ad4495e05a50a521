"""What the demo has seen so far: throughput, latency, hits, dead letters, fallbacks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from headwater_client.events import Interaction, Recommendation

from deploy.demo.baseline import PLACES

_RECENT = 2_000


@dataclass(kw_only=True)
class Hits:
    """What people did next, beside what was on the screen and what is popular."""

    asked: int = 0
    hits: int = 0
    popular_hits: int = 0

    def judge(self, hit: bool, popular: bool) -> None:
        """Count one event; `popular`: decayed popularity had its item at the same moment."""
        self.asked += 1
        self.hits += hit
        self.popular_hits += popular

    @property
    def hit_rate(self) -> float:
        """Share of what people did next that stood among the ten items on the screen."""
        return self.hits / self.asked if self.asked else 0.0

    @property
    def popular_hit_rate(self) -> float:
        """The same for decayed popularity, at the same moments."""
        return self.popular_hits / self.asked if self.asked else 0.0


@dataclass(kw_only=True)
class Showing(Hits):
    """What one version showed; `since_ms` is when its first recommendation was produced."""

    since_ms: int


@dataclass(kw_only=True)
class Tally(Hits):
    """Filled by the sender and the reader of recommendations, each in its thread.

    A recommendation is judged by what the person did with it on the screen: each event whose item
    is new to its person is held against the newest recommendation that had arrived for that person
    when the event was sent, and against popularity at the same moment.

    Args:
        popularity: by event_id of the events that can be foreseen: did popularity have the item?
        watched: the person whose recommendations are shown.
    """

    popularity: Mapping[str, bool]
    watched: str
    sent_s: dict[str, float] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    fallbacks: int = 0
    dead_letters: int = 0
    recommendations: int = 0
    versions: dict[str, Showing] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    latest: Recommendation | None = None
    started_s: float = field(default_factory=time.monotonic)
    last_answer_s: float = 0.0
    _shown: dict[str, Recommendation] = field(default_factory=dict)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def sent(self, event: Interaction) -> None:
        """An event is about to be handed to Kafka."""
        self.sent_s[event.event_id] = time.monotonic()
        shown = self._shown.get(event.user_id)
        if shown is not None and event.event_id in self.popularity:
            hit = any(item.item_id == event.item_id for item in shown.items[:PLACES])
            popular = self.popularity[event.event_id]
            self.judge(hit, popular)
            if showing := self.versions.get(shown.model_version):
                showing.judge(hit, popular)

    def received(self, answer: Recommendation) -> None:
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
        if not answer.fallback:
            self.versions.setdefault(answer.model_version, Showing(since_ms=answer.produced_time))
        self._shown[answer.user_id] = answer
        if answer.user_id == self.watched:
            self.latest = answer

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
