"""What becomes of what is known of a person who is to be forgotten, place by place: the receipt."""

from collections.abc import Iterator, Mapping

from headwater_client import topics
from headwater_client.contract import ErasurePlace, ErasureState
from headwater_client.event_types import EVENT_TYPES

from features.store import DAMAGED_KEPT_S

_REMOVED, _KEPT = ErasureState.REMOVED, ErasureState.KEPT
ROW, WINDOWS, HISTORY = "feature row", "windows", "history of Feast"
_PLACES = (
    ErasurePlace(
        place=ROW,
        state=_REMOVED,
        about="history, counters, seen items; an empty row stays under the id, by which what Kafka "
        "had before is not counted again",
    ),
    ErasurePlace(place="attributes", state=_REMOVED, about="of PUT /v1/people/{id}/attributes"),
    ErasurePlace(
        place="shown lists",
        state=_REMOVED,
        about="which items the person was shown, for exclude_shown",
    ),
    ErasurePlace(
        place=WINDOWS,
        state=_REMOVED,
        about="events that training has gathered, and who became whom; versions that are trained "
        "from then on learn from none of them",
    ),
    ErasurePlace(
        place="items",
        state=_KEPT,
        about="counts of what is popular have the person's events in them, without an id",
    ),
    ErasurePlace(
        place="model versions",
        state=_KEPT,
        about="those of before were trained with the events, and know no ids",
    ),
    ErasurePlace(
        place="guests and members",
        state=_KEPT,
        about="rows of ids that have become this person, or that this person has become: forget "
        "each",
    ),
    ErasurePlace(
        place=HISTORY,
        state=_KEPT,
        about="where `headwater backfill history` wrote one: `headwater forget` there takes the "
        "person out of it",
    ),
    ErasurePlace(
        place=f"topic {topics.AUDIT}",
        state=_KEPT,
        about="for ever, where somebody at the console has acted on this person, or on what they "
        "sent: who did what is what it is for",
    ),
)
_TOPICS = {
    topics.PEOPLE: "attributes that were sent before, until the topic is compacted",
    topics.IDENTITIES: "that the person is to be forgotten, and who became whom",
    topics.RECOMMENDATIONS: "lists that the stream sent",
    topics.SERVED: "lists that the API answered",
    topics.DEAD_LETTERS: "what of the person broke the contract",
}
TOPICS = (*EVENT_TYPES.all_topics, *_TOPICS)


_DAY_MS = 86_400_000


def list_places(now_ms: int, retention_ms: Mapping[str, int]) -> list[ErasurePlace]:
    """The receipt of an erasure that Kafka has now.

    Args:
        retention_ms: by topic, how long a message stays; -1: for ever. What is not known is left
            open.
    """
    damaged = ErasurePlace(
        place="damaged rows",
        state=ErasureState.EXPIRES,
        about="a row that could not be read was kept beside, under a key that does not tell whose",
        until=_end_of_day(now_ms + 1000 * DAMAGED_KEPT_S),
    )
    return [*_PLACES, damaged, *_list_topics(now_ms, retention_ms)]


def _list_topics(now_ms: int, retention_ms: Mapping[str, int]) -> Iterator[ErasurePlace]:
    for name in TOPICS:
        kept_ms = retention_ms.get(name)
        if kept_ms is not None and kept_ms < 0:
            state, until = _KEPT, None
        else:
            state = ErasureState.EXPIRES
            until = None if kept_ms is None else _end_of_day(now_ms + kept_ms)
        about = _TOPICS.get(name, "events of before, which nothing counts again")
        yield ErasurePlace(place=f"topic {name}", state=state, about=about, until=until)


def _end_of_day(time_ms: int) -> int:
    """The first midnight, UTC, that is not before: a receipt is read by the day."""
    return -(-time_ms // _DAY_MS) * _DAY_MS
