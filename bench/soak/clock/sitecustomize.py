# ruff: noqa: INP001 (a folder of its own on the path, no package)
"""A clock that jumps, for the Python code of one process: Python imports this before anything.

Not libfaketime: librdkafka waits until a time of day, by C11's `cnd_timedwait`, which it leaves to
the kernel. With its clock ahead librdkafka waits for minutes, with its clock behind it spins. Where
a machine's own clock jumps neither happens. For the same reason gRPC's Python sees the true time:
it hands deadlines to its core.
"""

import os
import sys
import time
from pathlib import Path

_FILE = Path(os.environ["SOAK_CLOCK"])
_LOOK_S = 0.2
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
_known = {"ahead_s": 0.0, "looked_s": -_LOOK_S}


def _ahead_s() -> float:
    """By how much the caller's clock is ahead; read again now and then."""
    if sys._getframe(2).f_globals.get("__name__", "").startswith("grpc"):  # noqa: SLF001
        return 0.0
    if (now_s := _monotonic()) - _known["looked_s"] >= _LOOK_S:
        _known["looked_s"] = now_s
        _known["ahead_s"] = float(_FILE.read_text() or 0)
    return _known["ahead_s"]


def time_ahead() -> float:
    """In place of `time.time`."""
    return _time() + _ahead_s()


def time_ns_ahead() -> int:
    """In place of `time.time_ns`."""
    return _time_ns() + int(_ahead_s() * 1e9)


time.time, time.time_ns = time_ahead, time_ns_ahead
