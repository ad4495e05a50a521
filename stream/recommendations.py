"""Who asks for a list, what is answered, and the messages that are made of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any, NamedTuple

import xxhash
from headwater_client import Interaction, RecommendedItem
from headwater_client.events import ListRequest, Recommendation, Shadow
from opentelemetry.trace import SpanContext

from features.rows import UserRow
from stream.filtering import ItemFilter
from stream.list_rules import RequestRules
from stream.ranking import POPULAR

# The variant of users for whom there is no version.
FALLBACK = "fallback"
POPULAR_ITEMS = "popular-items"


class EventPlace(NamedTuple):
    """Where an event stands in Kafka, and how much of all that a user's row knew with it.

    Attributes:
        sequence: grows with each event that the row absorbs, of whichever topic.
    """

    topic: str
    partition: int
    offset: int
    sequence: int


class ListPlacement(NamedTuple):
    """The placement of a list that an event led to.

    Attributes:
        context: what its rules got of the event.
        hides_popular: whether the list stays empty where no version answers.
    """

    name: str
    revision: int
    context: Mapping[str, Any]
    hides_popular: bool


class RecommendationRequest(NamedTuple):
    """A user to recommend for.

    Attributes:
        time_ms: when the user asks; not before the newest event of the row.
        row: the user's feature row.
        event: the interaction that led to the request, if one did.
        place: of that interaction, where it came by Kafka.
        limit: how many items the list has, at most; None: `worker.top_k`.
        candidates: of who wants these items in order, and no others.
        wanted: which items may be in the list; None: all.
        explained: whether each item says what its score is the sum of.
        rules: which of them the list has, and where; None: the best by their scores.
        arrived_ms: when Kafka took that interaction; None where it came otherwise.
        placed: the placement of the list that it led to; None: none.
        sender: the span in which an app sent it; None: nobody traces it.
    """

    user_id: str
    time_ms: int
    row: UserRow
    event: Interaction | None = None
    place: EventPlace | None = None
    limit: int | None = None
    candidates: Sequence[str] = ()
    wanted: ItemFilter | None = None
    explained: bool = False
    rules: RequestRules | None = None
    arrived_ms: int | None = None
    placed: ListPlacement | None = None
    sender: SpanContext | None = None


def count_places(limit: int | None, top_k: int) -> int:
    """How many items a list has, at most: as many as were asked for, else `worker.top_k`."""
    return top_k if limit is None else limit


def longest_limit(requests: Iterable[RecommendationRequest], top_k: int) -> int:
    """How many items the longest list of these requests has."""
    return max(count_places(request.limit, top_k) for request in requests)


@dataclass(frozen=True, slots=True)
class RankedLists:
    """A ranked list for each user of a call, in the order of its requests.

    Attributes:
        items: per user, best first, each with its score and reason.
        model_version: which made the lists; `POPULAR_ITEMS` where no model did.
        variant: the users' variant in the rollout; `FALLBACK` without any version.
        rollout_id: of the rollout; "" for none.
        failed: why the variant's own version did not answer; "" where it did.
        latency_ms: how long that version took or was waited for; None where it was not called.
        top_k: how many items a full list has; a request of a smaller limit has a shorter one.
    """

    items: Sequence[list[RecommendedItem]]
    model_version: str
    variant: str = FALLBACK
    rollout_id: str = ""
    failed: str = ""
    latency_ms: float | None = None
    top_k: int = 0

    @property
    def fallback(self) -> bool:
        """Whether the lists are what trends, and no model's answer."""
        return self.model_version == POPULAR_ITEMS


def is_fallback(ranked: RankedLists, items: Sequence[RecommendedItem]) -> bool:
    """Whether no version has made a list: none answered, or nothing that it knows may be shown.

    What a rule has put into its place says nothing of the version.
    """
    by_score = [item for item in items if not item.placed_by]
    nothing_known = all(item.reason == POPULAR for item in by_score)
    return ranked.fallback or (nothing_known and bool(by_score or not items))


def make_recommendations(
    requests: Sequence[RecommendationRequest], ranked: RankedLists
) -> list[Recommendation]:
    """A message for each request.

    Raises:
        ValueError: a request has no event: a message names the event that led to it.
    """
    now_ms = int(time() * 1000)
    messages = []
    for request, items in zip(requests, ranked.items, strict=True):
        event = request.event
        if event is None:
            raise ValueError(f"request of {request.user_id!r}: a recommendation needs an event")
        place: dict[str, Any] = request.place._asdict() if request.place else {}
        fallback = is_fallback(ranked, items)
        if (placed := request.placed) is not None:
            place |= {"placement": placed.name, "placement_revision": placed.revision}
            place["asked"] = ListRequest(context=dict(placed.context))
        is_hidden = fallback and placed is not None and placed.hides_popular
        shown = [] if is_hidden else items
        messages.append(
            Recommendation(
                recommendation_id=recommendation_id(event),
                user_id=event.user_id,
                event_id=event.event_id,
                items=shown,
                model_version=POPULAR_ITEMS if fallback else ranked.model_version,
                variant=ranked.variant,
                event_time=event.timestamp,
                produced_time=now_ms,
                fallback=fallback,
                rollout_id=ranked.rollout_id,
                failed=ranked.failed,
                latency_ms=ranked.latency_ms,
                **place,
                missing=max(0, count_places(request.limit, ranked.top_k) - len(shown)),
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
    named = f"{event.user_id}\0{event.event_id}"
    if named.count("\0") > 1:
        # Ids may hold what stands between them: then it is said first how long one is.
        named = f"\0{len(event.user_id)}\0{named}"
    return xxhash.xxh3_128_hexdigest(named)
