"""A service ends when it is told to: in good order, at once where it computes, or by force."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERLY = "stop.wait(60)"
COMPUTING = """
with stop.interrupting():
    while True:
        sum(range(1000))
"""
HANGING = """
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [(ORDERLY, "orderly"), (COMPUTING, ""), (HANGING, "ended_by_force")],
    ids=["orderly", "computing", "hanging"],
)
def test_a_service_that_is_told_to_stop_ends_with_0(work: str, said: str) -> None:
    code = f"""
import os, signal, threading, time
from deploy.services import supervisor
supervisor.END_S = 0.2
with supervisor.graceful_shutdown() as stop:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    {work.strip().replace(chr(10), chr(10) + "    ")}
    print("orderly")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert ("orderly" in done.stdout) == (work is ORDERLY)
