"""What is measured of a version before it may leave the trainer: plain numbers. M events."""

from __future__ import annotations

from dataclasses import dataclass

from features.arrays import Float64Array, Int64Array


@dataclass(frozen=True)
class MethodRanking:
    """What one method made of the held-out events.

    Attributes:
        ranks: float64[M], of the right items; infinite for a missed one.
        items: how many different items were among the best 10 of a request.
    """

    ranks: Float64Array
    items: int


@dataclass(frozen=True)
class WeightGrowth:
    """The weight matrix that grew most beside the live version's, and by which factor."""

    matrix: str
    factor: float


@dataclass(frozen=True)
class Foresight:
    """What the live version made of the whole new window, before anyone learned from it.

    Attributes:
        people: int64[M], whose each of its events is, in any numbering.
        live, popularity: float64[M], ranks of the right items; of popularity that fades.
    """

    people: Int64Array
    live: Float64Array
    popularity: Float64Array


@dataclass(frozen=True)
class GateMeasurements:
    """A candidate beside the live version, or beside decayed popularity where none is live.

    Attributes:
        live: the number of the live version, None where there is none.
        people: int64[M], whose each held-out event is, in any numbering.
        catalogue: how many items there are.
        foresight: None without a live version or a window.
        growth: None without a live version of the same shape.
        mismatch: how the graph differs from the model; None where it does not.
        latency_ms: of the graph for a batch; None where it differs, and was not run.
        live_latency_ms: in turns with that; None also without a live version.
    """

    version: int
    live: int | None
    time_ms: int
    people: Int64Array
    candidate: MethodRanking
    reference: MethodRanking
    catalogue: int
    foresight: Foresight | None
    broken_weights: int
    broken_scores: int
    growth: WeightGrowth | None
    mismatch: str | None
    latency_ms: float | None
    live_latency_ms: float | None
