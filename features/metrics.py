"""What every process tells Prometheus, and counters of which an alert must see the first change."""

import math
import platform
from collections.abc import Iterable
from importlib.metadata import version
from time import monotonic

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Info

Info("headwater_build", "The release that runs, and on what").info(
    {"version": version("headwater"), "python_version": platform.python_version()}
)


def make_counter(
    name: str,
    meaning: str,
    label: str,
    values: Iterable[str],
    registry: CollectorRegistry = REGISTRY,
) -> Counter:
    """A counter whose series are there from the start, at 0.

    Prometheus sees no increase in a series that begins at 1: the first of what should never happen
    would raise no alert.

    Args:
        label: by which it is counted.
        values: of the label that are known; others may come.
    """
    counter = Counter(name, meaning, [label], registry=registry)
    for value in values:
        counter.labels(value)
    return counter


class LogThrottle:
    """Lets a line of the log through once a second, and counts those in between.

    >>> throttle = LogThrottle(every_s=60.0)
    >>> [throttle.count() for _ in range(3)]
    [1, 0, 0]
    """

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._due_s = -math.inf
        self._held = 0

    def count(self) -> int:
        """How many there were since the last line, this one too; 0 where it is not to be told."""
        self._held += 1
        if (now_s := monotonic()) < self._due_s:
            return 0
        held, self._held, self._due_s = self._held, 0, now_s + self._every_s
        return held
