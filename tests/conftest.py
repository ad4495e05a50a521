"""Fixtures for every kind of test."""

from __future__ import annotations

import os

from tests.harness.leaks import _nothing_left_behind
from tests.harness.servers import empty_streams, kafka_and_store, own, own_kafka, servers

__all__ = [
    "_nothing_left_behind",
    "empty_streams",
    "kafka_and_store",
    "own",
    "own_kafka",
    "servers",
]


def pytest_configure() -> None:
    """Let torch compute on one thread, here and in all that tests start.

    Threads gain nothing on small tensors, and wait for each other awake: that takes the time of
    whatever else is at work.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
