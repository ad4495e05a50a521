"""Memory is that of a process and of what it has started."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.harness.measure import memory_bytes

HELD = 40_000_000
HOLDS = f"held = b'x' * {HELD}; print('held', flush=True); input()"


def test_memory_has_what_children_hold() -> None:
    before = memory_bytes(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        assert memory_bytes(child.pid) >= HELD
        assert memory_bytes(os.getpid()) >= before + HELD * 0.9
        child.communicate(b"\n")
