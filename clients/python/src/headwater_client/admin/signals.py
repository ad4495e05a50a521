"""What is not as it was: rates that their past does not allow, and distributions that drift."""

from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.admin.forecast import SeriesKind
from headwater_client.contract import Scope
from headwater_client.operations import Operation


class RateAnomaly(Struct, frozen=True, kw_only=True):
    """An item, a category or everything whose rate is far outside what its past allows.

    Attributes:
        direction: surge or drop.
        since: about when it began.
        raised: when the alarm was raised.
        seen: when there was last evidence of it.
        rate, expected: people an hour: over the last minutes at `seen`, and by its past.
        is_open: whether it goes on.
        link: to the page about it.
    """

    kind: SeriesKind
    name: str
    title: str = ""
    direction: str
    since: int
    raised: int
    seen: int
    rate: float
    expected: float
    is_open: bool
    link: str


class AnomaliesQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many are asked for, and whether those that are over are left out."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    open_only: bool = False


class AnomaliesAnswer(Struct, frozen=True, kw_only=True):
    """The newest anomalies first.

    Attributes:
        watched: how many series, by kind.
        since: as of when rates have been watched; None before anything was.
        false_alarms_per_week: over all series, at most, in expectation, while nothing is wrong.
        tick_s: how long is counted before it is compared.
        missing: why nothing is watched; "" where it is.
    """

    anomalies: list[RateAnomaly]
    watched: dict[str, int]
    since: int | None
    false_alarms_per_week: float
    tick_s: float
    missing: str = ""


class DistributionDrift(Struct, frozen=True, kw_only=True):
    """How a feature or a score is distributed now, beside the reference window.

    Attributes:
        index, index_before: population stability index of the two newest blocks.
        threshold: what both have to exceed: what blocks of the reference differ by anyhow, .1 at
            least.
        blocks: of the reference.
        is_alert: whether both do.
        reference, current: shares by bin.
        missing: why nothing can be said; "" where it can.
    """

    name: str
    index: float
    index_before: float
    threshold: float
    blocks: int
    is_alert: bool
    reference: dict[str, float]
    current: dict[str, float]
    link: str
    missing: str = ""


class DriftAnswer(Struct, frozen=True, kw_only=True):
    """Features as windows have them, and scores as recommendations have them; alerts first.

    Attributes:
        windows: that were read; `unreadable` of them could not be.
        lists: whose scores were read.
    """

    features: list[DistributionDrift]
    scores: list[DistributionDrift]
    windows: int
    unreadable: int
    lists: int
    missing: str = ""


OPERATIONS = (
    Operation(
        "list_anomalies",
        "GET",
        "/v1/admin/anomalies",
        "Items and categories whose rates are far outside what their past allows",
        AnomaliesAnswer,
        Scope.VIEW,
        query=AnomaliesQuery,
    ),
    Operation(
        "tell_drift",
        "GET",
        "/v1/admin/drift",
        "How the distributions of features and scores differ from those of the reference window",
        DriftAnswer,
        Scope.VIEW,
    ),
)
