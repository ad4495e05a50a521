"""Waiting for what a server does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(true: Callable[[], bool], timeout_s: float = 10) -> None:
    """Look again and again until it is true; fails where it is not in time.

    At first often. What takes longer is looked at less: others need the core.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.02
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.25)
