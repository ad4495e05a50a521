"""Events without end, made of a log: many people at once, as a shop sees them.

A log replayed at hundreds of times its speed has few people at work at any moment: MovieLens'
people rate a hundred films in one sitting. A batch of it would need hardly any answers, and flatter
whoever answers once a person. So people's events are mixed, each person's own order kept.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import count

from headwater_client.events import Interaction
from msgspec.structs import replace

# The log begins anew, later, when it has ended; a run does not need more passes than these.
PASSES = 32
_SEED = 7


class Order(StrEnum):
    """The order of events: people mixed evenly, or as the log has them."""

    MIXED = "mixed"
    LOGGED = "logged"


def generate_workload(
    log: Sequence[Interaction], order: Order, *, newcomers: bool = False
) -> Iterator[Interaction]:
    """The log's events again and again; each pass is later than the last, with ids of its own.

    Args:
        newcomers: each pass is other people's. The same people are recommended nothing any more
            that they take: they have taken it.
    """
    events = mix_people(log) if order is Order.MIXED else log
    step_ms = pass_ms(log, int(time.time() * 1000))
    for pass_number in count():
        if pass_number == 0:
            yield from events
            continue
        for event in events:
            yield replace(
                event,
                event_id=f"{event.event_id}~{pass_number}",
                user_id=f"{event.user_id}~{pass_number}" if newcomers else event.user_id,
                timestamp=event.timestamp + min(pass_number, PASSES) * step_ms,
            )


def mix_people(log: Sequence[Interaction]) -> list[Interaction]:
    """The events in a random order of people, each person's events in theirs."""
    events: defaultdict[str, list[Interaction]] = defaultdict(list)
    for event in log:
        events[event.user_id].append(event)
    turns = [event.user_id for event in log]
    random.Random(_SEED).shuffle(turns)
    own = {user_id: iter(theirs) for user_id, theirs in events.items()}
    return [next(own[user_id]) for user_id in turns]


def pass_ms(log: Sequence[Interaction], now_ms: int) -> int:
    """How much later a pass is than the one before: a log's length, but never in the future."""
    first = min(event.timestamp for event in log)
    last = max(event.timestamp for event in log)
    return max(0, min(last - first + 1, (now_ms - last) // PASSES))
