"""A real Prometheus that scrapes processes of a test, where there is one."""

from __future__ import annotations

import os
import shutil

import pytest

NEEDS = "needs Prometheus: apt-get download prometheus, dpkg -x it, and have its usr/bin in PATH"


def find_program(name: str) -> str:
    """A program of Prometheus. Without it a test is skipped, but for CI's."""
    path = shutil.which(name)
    if path is None and "CI" not in os.environ:
        pytest.skip(NEEDS)
    assert path, NEEDS
    return path
