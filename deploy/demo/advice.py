"""What to try where a log gives the model no lead over a simple rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ENOUGH = 200
"""Judged answers without which nothing is said of the model."""


def give_advice(figures: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people; none where the model is better than decayed popularity and own items."""
    hits, after = figures["hit_rate_at_10"], figures["next_event"]
    if hits["asked"] < ENOUGH:
        yield (
            f"Only {hits['asked']} answers could be judged: too few to tell how good they are. "
            "Replay more events, or a log in which people come back."
        )
    elif hits["recommended"] <= hits["popularity"]:
        yield (
            "On this log the model is no better than decayed popularity "
            f"({hits['recommended']} beside {hits['popularity']}). What to try: a longer log; "
            "titles and categories of the items (--map title=COLUMN, category=COLUMN), from which "
            "items are known before anyone has touched them; more training "
            "(trainer.max_seconds, trainer.epochs); headwater tune --data, which searches for "
            "better settings."
        )
    if after["asked"] >= ENOUGH and after["own_hits"] > after["hits"]:
        own, ours = (f"{after[name] / after['asked']:.0%}" for name in ("own_hits", "hits"))
        yield (
            f"On this log people return to what they had: the very next event names one of their "
            f"own ten newest items in {own} of the cases, one that was recommended in {ours}. "
            "If items should be recommended again (groceries, music), set features.seen_by to [] "
            "(in the environment: HEADWATER_FEATURES__SEEN_BY='[]') and start anew."
        )
