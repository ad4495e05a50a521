"""Trainers that live for a while each, and are killed: run by test_trainer.py.

    python -m tests.faults.killed_trainers

For each line `PAUSE_S SIGNAL` on standard input a trainer lives, a process of its own, forked where
everything is imported: it gets the signal after so many seconds, or never, for a negative number.
What it makes of windows goes to standard output: a line of their numbers each time. How it ended is
the last line: `stopped` (as told, within the half minute that Kubernetes waits), `killed`, `ended`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback

import torch

from deploy.services.supervisor import graceful_shutdown
from deploy.services.trainer import slow_loop
from deploy.settings import Settings, load_settings
from features.schema import FeatureSchema
from tests.faults.killed_publishers import warm_up

GRACE_S = 30.0


def live(settings: Settings) -> None:
    """As `headwater trainer` does."""
    answers = os.dup(1)
    # Its log: standard output is for answers.
    os.dup2(2, 1)
    with graceful_shutdown() as stop:
        for step in slow_loop(settings, stop):
            os.write(answers, f"{' '.join(map(str, step.windows))}\n".encode())


def live_and_die(settings: Settings, pause_s: float, number: int) -> None:
    """One trainer."""
    pid = os.fork()
    if pid == 0:
        try:
            live(settings)
            os._exit(0)
        except SystemExit as end:
            os._exit(int(str(end.code)))
        except Exception:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
    if pause_s >= 0:
        time.sleep(pause_s)
        os.kill(pid, number)
    print(await_end(pid, GRACE_S if number == signal.SIGTERM else None), flush=True)


def await_end(pid: int, within_s: float | None) -> str:
    """How a process ended; it is killed where that takes too long."""
    timer = threading.Timer(within_s, os.kill, (pid, signal.SIGKILL)) if within_s else None
    if timer:
        timer.start()
    _, status = os.waitpid(pid, 0)
    if timer:
        timer.cancel()
    if os.WIFSIGNALED(status):
        # It had not even begun to listen.
        return "stopped" if os.WTERMSIG(status) == signal.SIGTERM else "killed"
    return "ended" if os.WEXITSTATUS(status) else "stopped"


if __name__ == "__main__":
    # No thread of torch's may be lost by a fork.
    torch.set_num_threads(1)
    found = load_settings()
    warm_up(FeatureSchema(found.features))
    # That too, but for learning itself, which makes threads.
    torch.optim.AdamW([torch.zeros(1)]).step()
    for line in sys.stdin:
        pause, number = line.split()
        live_and_die(found, float(pause), int(number))
