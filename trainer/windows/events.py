"""A row of a window: an event, where it stood in Kafka, and what is to be known of it."""

from collections import Counter
from typing import Any

import pyarrow as pa
import structlog
from headwater_client.documents import read_json
from headwater_client.event_types import EVENT_TYPES, EXTRA_FIELDS
from headwater_client.events import Interaction, encode
from msgspec import Struct

log = structlog.get_logger()
_REMEDY = "they are not learned from: put their type back into events.types, if they are to be"
_EXTRA_TYPES: Any = dict.fromkeys(EXTRA_FIELDS, pa.float64()) | {"taken_time": pa.int64()}
COLUMNS: Any = pa.schema(
    [
        pa.field("type", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("recommendation_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("price", pa.float64()),
        pa.field("quantity", pa.int32()),
        pa.field("context", pa.string()),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("late", pa.bool_(), nullable=False),
        pa.field("repeated", pa.bool_(), nullable=False),
        *(pa.field(name, _EXTRA_TYPES[name]) for name in EXTRA_FIELDS),
    ]
)
_OF_AN_EVENT = (
    "event_id",
    "user_id",
    "item_id",
    "timestamp",
    "session_id",
    "recommendation_id",
    "position",
    "price",
    "quantity",
)


class WindowEvent(Struct, frozen=True):
    """One event of a window.

    Attributes:
        topic, partition, offset: where it stood in Kafka; no two rows share all three.
        late: it came after its window was closed, and is in the next one.
        repeated: an event of the same person, type and event_id stands before it, within
            `windows.dedup_window`.
    """

    topic: str
    partition: int
    offset: int
    event: Interaction
    late: bool = False
    repeated: bool = False

    @property
    def order(self) -> tuple[int, str, int, int]:
        """Event time, and within an instant the place in Kafka: the order in a window."""
        return self.event.timestamp, self.topic, self.partition, self.offset


def to_table(rows: list[WindowEvent]) -> Any:
    """The rows as a pyarrow.Table of `COLUMNS`."""
    events = [row.event for row in rows]
    columns: dict[str, list[Any]] = {
        "type": [EVENT_TYPES.spec_of(event).name for event in events],
        "context": [_context_text(event) for event in events],
    }
    columns |= {
        name: [getattr(event, name, None) for event in events]
        for name in (*_OF_AN_EVENT, *EXTRA_FIELDS)
    }
    for name in ("topic", "partition", "offset", "late", "repeated"):
        columns[name] = [getattr(row, name) for row in rows]
    return pa.table(columns, schema=COLUMNS)


def from_table(table: Any) -> list[WindowEvent]:
    """The rows of a pyarrow.Table of `COLUMNS`.

    Those of a type that the settings named once, and name no more, are counted and left out.
    """
    rows = table.to_pylist()
    known = set(EVENT_TYPES.all_topics)
    for topic, events in Counter(row["topic"] for row in rows).items():
        if topic not in known:
            log.warning("window_events_of_no_type", topic=topic, events=events, remedy=_REMEDY)
    return [
        WindowEvent(
            topic=row["topic"],
            partition=row["partition"],
            offset=row["offset"],
            event=_event(row),
            late=row["late"],
            repeated=row["repeated"],
        )
        for row in rows
        if row["topic"] in known
    ]


def _context_text(event: Interaction) -> str | None:
    return None if event.context is None else encode(event.context).decode()


def _event(row: dict[str, Any]) -> Interaction:
    # Windows of before have no columns of what types have beside the others.
    names = (*_OF_AN_EVENT, *EXTRA_FIELDS)
    known = {name: row[name] for name in names if row.get(name) is not None}
    if row["context"] is not None:
        known["context"] = read_json(row["context"], dict)
    return EVENT_TYPES.spec_of_topic(row["topic"]).struct(**known)
