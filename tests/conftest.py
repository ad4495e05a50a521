"""Fixtures for every kind of test."""

from __future__ import annotations

from tests.harness.servers import own, own_kafka, servers

__all__ = ["own", "own_kafka", "servers"]
