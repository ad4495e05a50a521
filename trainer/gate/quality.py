"""Whether a version is worse than another on the same events. M events."""

from __future__ import annotations

import numpy as np

from features.arrays import Float64Array, Int64Array
from trainer.metrics import draw_people


def probability_worse(
    candidate: Float64Array, reference: Float64Array, people: Int64Array, margin: float
) -> float:
    """How sure it is that the candidate is worse by more than a margin: a share of draws.

    People are drawn with all their events, as often as there are people: a paired bootstrap (P.
    Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004).

    Args:
        candidate, reference: float64[M], the gain of each event.
        people: int64[M], whose each is.
        margin: a share of the reference's mean gain.

    >>> ours, theirs = np.array([0.0, 0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.5, 0.5])
    >>> probability_worse(ours, theirs, np.arange(4), margin=0.0) > 0.6
    True
    >>> probability_worse(theirs, ours, np.arange(4), margin=0.0)
    0.0
    """
    if not len(people):
        return 0.0
    who, draws = draw_people(people)
    ahead = np.bincount(who, candidate - (1 - margin) * reference)
    return float((ahead[draws].sum(1) < 0).mean())
