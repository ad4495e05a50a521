"""Fixtures for every kind of test."""

from __future__ import annotations

from tests.stand.servers import own, servers

__all__ = ["own", "servers"]
