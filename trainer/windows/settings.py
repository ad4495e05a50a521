"""Settings of the windows: where they are, and when one is closed."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from features.settings import Section


class WindowSettings(Section):
    """Where windows of events are kept, and when one is closed."""

    RENAMED: ClassVar[Mapping[str, str]] = {"remembered_events": "dedup_window"}

    address: str | None = Field(
        None,
        min_length=1,
        description="a folder, or an address that fsspec knows (s3://...); empty: the folder "
        "windows in local.state_dir",
    )
    duration_s: Annotated[int, Field(ge=1)] = Field(
        3600,
        description="event time that a window covers, in seconds, from a whole multiple of it on",
    )
    allowed_lateness_s: Annotated[int, Field(ge=0)] = Field(
        300, description="how long a window waits for late events, in seconds of event time"
    )
    max_events: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        100_000,
        description="events of a window, at most: so many are closed whatever time they cover",
    )
    idle_s: Annotated[float, Field(gt=0)] = Field(
        300.0,
        description="seconds without a new event after which open windows are closed; while old "
        "events keep coming, which move event time no further, once in twelve times that",
    )
    dedup_window: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        200_000,
        description="an event that is sent again within so many events is marked as repeated, "
        "and training leaves it out",
    )
    retry_s: Annotated[float, Field(ge=0)] = Field(
        300.0, description="how long a file that cannot be written is tried again, in seconds"
    )
    group: str = Field(
        "headwater-windows",
        min_length=1,
        description="Kafka consumer group that reports how far windows have come",
    )
