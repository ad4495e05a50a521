"""Writers of windows, one after another, each killed at a random moment: run by test_windows.py.

    python -m tests.faults.killed_writers KILLS SEED [forgetful]

Each is a process of its own, forked where everything is imported already, so that it is at work a
moment after. The last one is not killed. `forgetful` ones pass over nothing when they start, to
show that the test then fails.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from deploy import local
from deploy.commands.windows import write
from deploy.settings import load_settings
from trainer.windows import writer
from trainer.windows.assembler import OffsetTracker
from trainer.windows.store import WindowStore

IMPORTED = (local, writer)
WINDOWS_OF_A_LIFE = 9
LONGEST_PAUSE_S = 0.03


def fork() -> int:
    """A writer that runs until it is told to stop; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            write()
        finally:
            os._exit(0)
    return pid


def live_and_die(store: WindowStore, chance: random.Random) -> None:
    """One writer, killed anywhere in what it does before, for or after a window."""
    wanted = len(store.numbers()) + chance.randrange(WINDOWS_OF_A_LIFE)
    pid = fork()
    try:
        while len(store.numbers()) < wanted:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, LONGEST_PAUSE_S))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    if "forgetful" in sys.argv:
        OffsetTracker.has = lambda self, offset: False  # type: ignore[method-assign]
    # No writer outlives this process when it is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    chance = random.Random(int(sys.argv[2]))
    for _ in range(int(sys.argv[1])):
        live_and_die(WindowStore(load_settings().windows_address), chance)
    write()
