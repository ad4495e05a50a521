"""The operations that `headwater console` answers besides those of the API, by area.

Each area's structs stand in a module of its own, with its `OPERATIONS`.
"""

from headwater_client.admin import (
    audit,
    fairness,
    forecast,
    live,
    models,
    now,
    people,
    placements,
    quality,
    rollouts,
    signals,
)
from headwater_client.operations import Operation

ADMIN_OPERATIONS: tuple[Operation, ...] = (
    *now.OPERATIONS,
    *models.OPERATIONS,
    *rollouts.OPERATIONS,
    *placements.OPERATIONS,
    *forecast.OPERATIONS,
    *signals.OPERATIONS,
    *live.OPERATIONS,
    *quality.OPERATIONS,
    *fairness.OPERATIONS,
    *audit.OPERATIONS,
    *people.OPERATIONS,
)
