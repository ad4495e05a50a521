"""Trainers that live for a while each, and are killed: run by test_trainer.py.

    python -m tests.faults.killed_trainers

For each line `PAUSE_S` on standard input a trainer lives, a process of its own, forked where
everything is imported: it is killed after so many seconds, or never, for a negative number. What it
makes of windows goes to standard output: a line of their numbers each time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback

import torch

from deploy.services.trainer import slow_loop
from deploy.settings import Settings, load_settings
from features.schema import FeatureSchema
from tests.faults.killed_publishers import warm_up


def live(settings: Settings) -> None:
    """As `headwater trainer` does."""
    answers = os.dup(1)
    # Its log: standard output is for answers.
    os.dup2(2, 1)
    for step in slow_loop(settings, threading.Event()):
        os.write(answers, f"{' '.join(map(str, step.windows))}\n".encode())


def live_and_die(settings: Settings, pause_s: float) -> None:
    """One trainer."""
    pid = os.fork()
    if pid == 0:
        try:
            live(settings)
        except Exception:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
    if pause_s >= 0:
        time.sleep(pause_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)


if __name__ == "__main__":
    # No thread of torch's may be lost by a fork.
    torch.set_num_threads(1)
    found = load_settings()
    warm_up(FeatureSchema(found.features))
    # That too, but for learning itself, which makes threads.
    torch.optim.AdamW([torch.zeros(1)]).step()
    for line in sys.stdin:
        live_and_die(found, float(line))
