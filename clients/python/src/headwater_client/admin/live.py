"""Figures as they change, for whoever keeps a page open."""

from headwater_client.contract import Scope
from headwater_client.operations import Operation

OPERATIONS = (
    Operation(
        "stream_live",
        "GET",
        "/v1/admin/live",
        "Figures as they change, as server-sent events: each is a JSON object with `time` and what "
        "each area says, or its problem; the same for all who look",
        scope=Scope.VIEW,
    ),
)
