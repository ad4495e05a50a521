"""Fixtures for every kind of test."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

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
    """Say how Python runs, here and in all that tests start.

    Torch computes on one thread: more gain nothing on small tensors, and wait for each other awake,
    which takes the time of whatever else is at work. What is imported is compiled once, not by each
    of a hundred programs, whatever the environment says. And no example has to be quick.
    """
    settings.register_profile("headwater", deadline=None)
    settings.load_profile("headwater")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes and other programs, unless it is asked for by name."""
    unasked = {mark for mark in ("images", "cluster") if mark not in config.option.markexpr}
    left_out = [
        item for item in items if not unasked.isdisjoint(m.name for m in item.iter_markers())
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
