"""Messages of the topic `recommendations`, made from ranked lists."""

from __future__ import annotations

import time
from collections.abc import Sequence

import xxhash
from headwater_client.events import Interaction, Recommendation, Shadow

from stream.recommender import RankedLists, RecommendationRequest


def make_recommendations(
    requests: Sequence[RecommendationRequest], ranked: RankedLists
) -> list[Recommendation]:
    """A message for each request.

    Raises:
        ValueError: a request has no event: a message names the event that led to it.
    """
    now_ms = int(time.time() * 1000)
    messages = []
    for request, items in zip(requests, ranked.items, strict=True):
        event = request.event
        if event is None:
            raise ValueError(f"request of {request.user_id!r}: a recommendation needs an event")
        messages.append(
            Recommendation(
                recommendation_id=recommendation_id(event),
                user_id=event.user_id,
                event_id=event.event_id,
                items=items,
                model_version=ranked.model_version,
                variant=ranked.variant,
                event_time=event.timestamp,
                produced_time=now_ms,
                fallback=ranked.fallback,
                rollout_id=ranked.rollout_id,
                failed=ranked.failed,
                latency_ms=ranked.latency_ms,
            )
        )
    return messages


def make_shadows(ranked: RankedLists) -> list[Shadow]:
    """What a version in shadow mode would have shown, for each user."""
    return [
        Shadow(
            model_version=ranked.model_version,
            items=[item.item_id for item in items],
            score=items[0].score if items else None,
            latency_ms=ranked.latency_ms,
            failed=ranked.failed,
        )
        for items in ranked.items
    ]


def recommendation_id(event: Interaction) -> str:
    """Names the answer to an event: the same whenever the event is answered again."""
    return xxhash.xxh3_128_hexdigest(f"{event.user_id}\0{event.event_id}")
