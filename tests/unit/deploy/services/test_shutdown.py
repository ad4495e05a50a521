"""A service ends when it is told to: in good order, at once where it computes, or by force."""

from __future__ import annotations

import subprocess
import sys

import pytest

SIGNAL = "threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()"
ORDERLY = "stop.wait(60)"
COMPUTING = """
with stop.interrupting():
    while True:
        sum(range(1000))
"""
# The signal is handled where Python runs next: in what librdkafka calls.
IN_A_CALLBACK = """
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 1, "log_level": 0})
producer.produce("t", b"", on_delivery=lambda *_: signal.raise_signal(signal.SIGTERM))
with stop.interrupting():
    producer.flush(30)
"""
HANGING = """
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (ORDERLY, "orderly"),
        (COMPUTING, ""),
        (IN_A_CALLBACK, ""),
        (HANGING, "ended_by_force"),
    ],
    ids=["orderly", "computing", "in a callback", "hanging"],
)
def test_a_service_that_is_told_to_stop_ends_with_0(work: str, said: str) -> None:
    begin = "" if work is IN_A_CALLBACK else SIGNAL
    code = f"""
import os, signal, threading, time
from deploy.services import supervisor
supervisor.END_S = 0.2
with supervisor.graceful_shutdown() as stop:
    {begin}
    {work.strip().replace(chr(10), chr(10) + "    ")}
    print("orderly")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert ("orderly" in done.stdout) == (work is ORDERLY)
