"""What swaps under load have shown: what failed, latency, memory; as figures and as a table."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from statistics import median
from typing import Any

from aiokafka.partitioner import murmur2
from headwater_client.event_types import EVENT_TYPES
from rich.table import Table

from bench.harness.load import Answered, Sent
from bench.harness.measure import SETTLE_S, Latencies, summary

# Memory is compared with that after this swap, when caches are full; in short runs with the first.
SETTLED_SWAP = 10
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Swap:
    """A version that took over; times are of `time.monotonic`.

    Attributes:
        begun_s: it is about to be written, which takes the benchmark's own processor time.
        started_s: its folder is whole, it is about to be loaded.
        announced_s: it is about to be announced.
        answered_s: its first recommendation was read.
        ended_s: it has answered, and what it makes needless is removed.
        stages: seconds of each.
        memory_bytes: Triton's, with all that it has started, before the next swap.
    """

    version: int
    begun_s: float
    started_s: float
    announced_s: float
    answered_s: float
    ended_s: float
    stages: Mapping[str, float]
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """From the whole folder to the first recommendation."""
        return self.answered_s - self.started_s


@dataclass(frozen=True)
class Loaded:
    """What was sent and answered at a constant rate: first in quiet, then while versions swap.

    Attributes:
        rate: events a second.
        sent: in order.
        swaps: in order, at least one.
        dead_letters: messages that were refused since the servers started.
        partitions: of each topic of people's actions.
    """

    rate: float
    sent: Sequence[Sent]
    answers: Sequence[Answered]
    swaps: Sequence[Swap]
    dead_letters: int
    partitions: int

    def quiet(self) -> Latencies:
        """Latency of what was sent before the first version was written, the load settled."""
        settled_s = self.sent[0].time_s + SETTLE_S
        return summary(self._between(settled_s, self.swaps[0].begun_s), self.answers)

    def during(self, swaps: Sequence[Swap]) -> Latencies:
        """Latency of what was sent while one of these swaps was under way."""
        return self._of_all((swap.started_s, swap.ended_s) for swap in swaps)

    def while_written(self) -> Latencies:
        """Latency of what was sent while a version was being written."""
        return self._of_all((swap.begun_s, swap.started_s) for swap in self.swaps)

    def _of_all(self, spans: Iterable[tuple[float, float]]) -> Latencies:
        sent = chain.from_iterable(self._between(*span) for span in spans)
        return summary(list(sent), self.answers)

    def since_first_swap(self) -> int:
        """How many events were sent from the first swap on."""
        return len(self._between(self.swaps[0].started_s, math.inf))

    def _between(self, since_s: float, until_s: float) -> Sequence[Sent]:
        start, end = (
            bisect_left(self.sent, time_s, key=lambda one: one.time_s)
            for time_s in (since_s, until_s)
        )
        return self.sent[start:end]


def unanswered(found: Loaded) -> list[Sent]:
    """Events that no recommendation knows.

    The events of one person in a batch have one recommendation, that of the last. So one without
    its own is known to another's of its person, if both can have been in the same batch.
    """
    read_s = {answer.event_id: answer.time_s for answer in found.answers}
    missed = _passed_over(found, read_s)
    return _unknown_to_earlier(missed, found.sent, read_s)


def _passed_over(found: Loaded, read_s: Mapping[str, float]) -> list[Sent]:
    """Events that neither have a recommendation nor share a batch with a later one that has.

    One was passed over if an event behind it in its topic's partition was answered before the
    person's next answered event was sent: that one was in a later batch.
    """
    next_sent_s: dict[str, float] = {}
    overtaken_s: dict[tuple[str, int], float] = {}
    missed = []
    for event in reversed(found.sent):
        queue = event.topic, partition_of(event.user_id, found.partitions)
        overtaken = overtaken_s.get(queue, math.inf)
        if event.event_id in read_s:
            next_sent_s[event.user_id] = event.time_s
            overtaken_s[queue] = min(overtaken, read_s[event.event_id])
        elif next_sent_s.get(event.user_id, math.inf) >= overtaken:
            missed.append(event)
    return missed[::-1]


def _unknown_to_earlier(
    missed: Sequence[Sent], sent: Sequence[Sent], read_s: Mapping[str, float]
) -> list[Sent]:
    """Those that no answer to an earlier event of their person, in another topic, can know.

    The worker may take a purchase first and then a click that was sent before it: the click is the
    last of the batch, and is answered after both were sent.
    """
    in_doubt = {event.event_id for event in missed}
    newest_s: dict[tuple[str, str], float] = {}
    left = []
    for event in sent:
        if event.event_id in read_s:
            newest_s[event.user_id, event.topic] = read_s[event.event_id]
        elif event.event_id in in_doubt:
            others = (topic for topic in EVENT_TYPES.topics if topic != event.topic)
            if all(newest_s.get((event.user_id, o), -math.inf) < event.time_s for o in others):
                left.append(event)
    return left


@cache
def partition_of(user_id: str, partitions: int) -> int:
    """The partition of a person's events, as Kafka's Java client chooses it for a key."""
    return int(murmur2(user_id.encode()) & 0x7FFFFFFF) % partitions


def not_live(found: Loaded) -> list[Answered]:
    """Recommendations of a version that was not live; fallbacks, which name none, left out.

    A version is live from its announcement on. Once the next one has answered, the worker knows of
    it: what is sent from then on is not to be answered by an older one.
    """
    first = found.swaps[0].version - 1
    announced_s = {str(first): -math.inf} | {str(s.version): s.announced_s for s in found.swaps}
    superseded_s = {str(s.version - 1): s.answered_s for s in found.swaps}
    sent_s = {event.event_id: event.time_s for event in found.sent}

    def is_live(answer: Answered) -> bool:
        was_announced = announced_s.get(answer.version, math.inf) <= answer.time_s
        # An event of before the load may be answered after its start.
        asked_s = sent_s.get(answer.event_id, -math.inf)
        return was_announced and asked_s <= superseded_s.get(answer.version, math.inf)

    return [one for one in found.answers if not one.fallback and not is_live(one)]


def figures(found: Loaded) -> dict[str, Any]:
    """What the report holds."""
    failures = {
        "fallbacks": sum(answer.fallback for answer in found.answers),
        "unanswered": len(unanswered(found)),
        "dead_letters": found.dead_letters,
        "not_live": len(not_live(found)),
    }
    quiet, swapping = found.quiet(), found.during(found.swaps)
    settled = SETTLED_SWAP if len(found.swaps) > SETTLED_SWAP else 1
    memory = [swap.memory_bytes for swap in found.swaps]
    return {
        "versions": len(found.swaps),
        "events_per_second": found.rate,
        "requests": found.since_first_swap(),
        "failed": sum(failures.values()),
        "failures": failures,
        "p99_over_quiet": swapping["p99"] / quiet["p99"],
        "latency_ms": {"quiet": quiet, "writing": found.while_written(), "swapping": swapping},
        "memory_growth": memory[-1] / memory[settled - 1] - 1,
        "memory_growth_since_swap": settled,
        "seconds_per_swap": median(swap.seconds for swap in found.swaps),
        "stages_s": {
            stage: median(swap.stages[stage] for swap in found.swaps)
            for stage in found.swaps[0].stages
        },
        "swaps": [
            {
                "version": swap.version,
                "seconds": swap.seconds,
                "memory_mb": swap.memory_bytes / _MEGABYTE,
                "p99_ms": found.during([swap])["p99"],
            }
            for swap in found.swaps
        ],
    }


def table(found: Mapping[str, Any]) -> Table:
    """The figures as people read them."""
    drawn = Table(title=f"{found['versions']} swaps at {found['events_per_second']:,.0f} events/s")
    drawn.add_column()
    drawn.add_column(justify="right")
    quiet, writing, swapping = (found["latency_ms"][of] for of in ("quiet", "writing", "swapping"))
    memory_mb, since = found["swaps"][-1]["memory_mb"], found["memory_growth_since_swap"]
    rows = {
        "events from the first swap on": f"{found['requests']:,}",
        "failed": f"{found['failed']:,}",
        **{f"  {name.replace('_', ' ')}": f"{n:,}" for name, n in found["failures"].items()},
        "p99 in quiet, ms": f"{quiet['p99']:.0f}",
        "p99 while a version is written, ms": f"{writing['p99']:.0f}",
        "p99 during swaps, ms": f"{swapping['p99']:.0f}  ({found['p99_over_quiet']:.2f} times)",
        "Triton's memory, MB": f"{memory_mb:.0f}",
        f"  since swap {since}": f"{found['memory_growth']:+.1%}",
        "s a swap": f"{found['seconds_per_swap']:.2f}",
        **{f"  {name.replace('_', ' ')}": f"{s:.2f}" for name, s in found["stages_s"].items()},
    }
    for name, value in rows.items():
        drawn.add_row(name, value)
    return drawn
