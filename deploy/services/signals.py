"""Ends a command in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event


@contextmanager
def graceful_shutdown() -> Iterator[Event]:
    """An event that Ctrl-C and SIGTERM set, so that what is being written is written whole."""
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, lambda *_: stop.set()) for each in numbers]
    try:
        yield stop
    finally:
        for each, handler in zip(numbers, before, strict=True):
            signal.signal(each, handler)
