"""Settings of alerts: how often they may be wrong, and what they compare with."""

from typing import Annotated

from pydantic import Field

from features.settings import Section


class MonitoringSettings(Section):
    """What the console says of demand, of unusual rates, and of drift."""

    tick_s: Annotated[float, Field(ge=0.1, le=600)] = Field(
        10.0, description="how long rates are counted before they are compared, in seconds"
    )
    false_alarms_per_week: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0,
        description="alarms of a week without any anomaly, over all items and categories together, "
        "at most",
    )
    memory_s: Annotated[float, Field(ge=60)] = Field(
        6 * 3600.0,
        description="half-life of what an item's or category's rate is compared with, in seconds",
    )
