"""What every process tells Prometheus, and counters of which an alert must see the first change."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

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
