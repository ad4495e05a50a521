"""Settings of the windows: where they are, and when one is closed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from features.settings import Section


class WindowSettings(Section):
    """Where windows of events are kept, and when one is closed."""

    address: str | None = Field(
        None,
        min_length=1,
        description="a folder, or an address that fsspec knows (s3://...); empty: local.state_dir",
    )
    duration_s: Annotated[int, Field(ge=1)] = Field(
        3600, description="event time that a window covers, from a whole multiple of it on"
    )
    allowed_lateness_s: Annotated[int, Field(ge=0)] = Field(
        300, description="how long, in event time, a window waits for what arrives late"
    )
    max_events: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        100_000, description="so many open events are closed at once, however long they cover"
    )
    idle_s: Annotated[float, Field(gt=0)] = Field(
        300.0,
        description="when all is read and event time stands still for so long, close what is open",
    )
    remembered_events: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        200_000, description="an event sent again within so many events is marked as repeated"
    )
    retry_s: Annotated[float, Field(ge=0)] = Field(
        300.0, description="how long a file that cannot be written is tried again"
    )
    group: str = Field(
        "headwater-windows",
        min_length=1,
        description="Kafka consumer group that reports how far windows have come",
    )
