"""The mathematics of time decay, pure.

A counter is a value at a reference time. Read at time t it is worth
`value * 2 ** -((t - reference) / half_life)`: exponential decay is memoryless, so it can be
applied lazily, when the counter is read or written (Cormode, Shkapenyuk, Srivastava, Xu: "Forward
Decay", ICDE 2009, section 3). An infinite half-life counts without decay.
"""

from collections.abc import Sequence


def factor(elapsed_ms: float, half_life_ms: float) -> float:
    """What is left of 1 after `elapsed_ms`; above 1 for a time that lies before the reference.

    >>> factor(3_600_000, half_life_ms=3_600_000)
    0.5
    >>> factor(10**12, half_life_ms=float("inf"))
    1.0
    """
    return float(2.0 ** (-elapsed_ms / half_life_ms))


def factors(elapsed_ms: float, half_lives_ms: Sequence[float]) -> list[float]:
    """`factor` for each half-life."""
    return [2.0 ** (-elapsed_ms / half_life) for half_life in half_lives_ms]


def add(
    values: list[float],
    reference_ms: int,
    time_ms: int,
    weights: Sequence[float],
    half_lives_ms: Sequence[float],
) -> int:
    """Add `weights` as of `time_ms` to counters kept at `reference_ms`, in place.

    The reference moves to the newest time seen; a late weight is added decayed. So the result
    does not depend on the order of arrival, beyond rounding.

    Args:
        values: float[signals * half_lives], signal-major, at `reference_ms`.
        weights: float[signals], what to add to each signal.
        half_lives_ms: float[half_lives].

    Returns:
        The new reference time.

    >>> counters = [1.0]
    >>> add(counters, 0, 3_600_000, [1.0], [3_600_000])
    3600000
    >>> counters
    [1.5]
    """
    if time_ms > reference_ms:
        left = factors(time_ms - reference_ms, half_lives_ms)
        size = len(left)
        for index, value in enumerate(values):
            if value:
                values[index] = value * left[index % size]
        reference_ms, added = time_ms, [1.0] * size
    else:
        added = factors(reference_ms - time_ms, half_lives_ms)
    _add_each(values, weights, added)
    return reference_ms


def _add_each(values: list[float], weights: Sequence[float], added: list[float]) -> None:
    size = len(added)
    for signal, weight in enumerate(weights):
        if weight:
            for index in range(size):
                values[signal * size + index] += weight * added[index]


def read(
    values: Sequence[float], reference_ms: int, time_ms: int, half_lives_ms: Sequence[float]
) -> list[float]:
    """The counters as of `time_ms`, float[signals * half_lives].

    A time before the reference reads as of the reference: the events up to it cannot be taken
    apart, and a counter must not grow by looking back.

    >>> read([1.0, 4.0], 0, 7_200_000, [3_600_000, 7_200_000])
    [0.25, 2.0]
    """
    left = factors(max(0, time_ms - reference_ms), half_lives_ms)
    size = len(left)
    return [value * left[index % size] for index, value in enumerate(values)]
