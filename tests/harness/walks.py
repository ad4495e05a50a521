"""People who go through items by a step: what a small model can learn, and learn anew."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from headwater_client.events import Click, Interaction, Item

START_MS, STEP_MS = 1_700_000_000_000, 60_000
ITEMS, LENGTH = 20, 8

Events = list[Interaction]


def walks(people: range, step: int, names: str = "i") -> Events:
    """Everyone begins somewhere and goes on by a step, one person after another."""
    random = np.random.default_rng(people.start)
    return [
        Click(
            event_id=f"{person}-{at}",
            user_id=f"u{person}",
            item_id=f"{names}{(first + step * at) % ITEMS}",
            timestamp=START_MS + (person * LENGTH + at) * STEP_MS,
        )
        for person in people
        for first in [int(random.integers(ITEMS))]
        for at in range(LENGTH)
    ]


def swap_items(events: Events) -> Events:
    """The same with each other's items."""
    items = np.random.default_rng(0).permutation([event.item_id for event in events])
    return [
        msgspec.structs.replace(event, item_id=str(item))
        for event, item in zip(events, items, strict=True)
    ]


def catalogue(names: Sequence[str]) -> list[Item]:
    """Items with a title and a category."""
    return [
        Item(item_id=name, title="x" * (at % 7 + 1), category=[f"kind {at % 3}"])
        for at, name in enumerate(names)
    ]
