"""A worker to whom a topic, or a partition of it, comes late: run by test_positions.py.

So it is where another broker has it, or where a fetch before an assignment named others alone.
"""

from __future__ import annotations

import os
import time
from typing import Any

from aiokafka.protocol.fetch import FetchRequest

from stream import fetches

LATER_S = 3.0


def keep_back(topic: str, partition: int | None) -> None:
    """Let no fetch of the first seconds name it."""
    fit = fetches._Node.fit
    begun_s: list[float] = []

    def without(asked: Any) -> Any:
        name, parts = asked[0], asked[1]
        if name != topic:
            return asked
        left = [each for each in parts if partition is not None and each[0] != partition]
        return (name, left) if left else None

    def fit_later(self: Any, request: FetchRequest, now_s: float, is_held: bool) -> None:
        fit(self, request, now_s, is_held)
        begun_s.append(time.monotonic())
        if time.monotonic() - begun_s[0] < LATER_S:
            request._topics = [left for each in request._topics if (left := without(each))]

    fetches._Node.fit = fit_later  # type: ignore[method-assign]


if __name__ == "__main__":
    named = os.environ["LATE_TOPIC"].partition("/")
    keep_back(named[0], int(named[2]) if named[2] else None)
    from deploy.commands.worker import worker

    worker()
