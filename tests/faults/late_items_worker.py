"""A worker to whom items come three seconds later than events do: run by test_positions.py.

So it is where another broker has them, or where a fetch before an assignment named events alone.
"""

from __future__ import annotations

import time
from typing import Any

from aiokafka.protocol.fetch import FetchRequest
from headwater_client.topics import ITEMS

from stream import fetches

LATER_S = 3.0


def keep_items_back() -> None:
    """Let no fetch of the first seconds name items."""
    fit = fetches._Node.fit
    begun_s: list[float] = []

    def fit_later(self: Any, request: FetchRequest, now_s: float, is_held: bool) -> None:
        fit(self, request, now_s, is_held)
        begun_s.append(time.monotonic())
        if time.monotonic() - begun_s[0] < LATER_S:
            request._topics = [each for each in request._topics if each[0] != ITEMS]

    fetches._Node.fit = fit_later  # type: ignore[method-assign]


if __name__ == "__main__":
    keep_items_back()
    from deploy.commands.worker import worker

    worker()
