"""A worker that stops itself (SIGSTOP) while it holds a batch, once: run by test_zombie.py.

The rows are read and changed, not yet written, when it stops. `unconditional` takes the condition
out of the store's write, to show that the test then fails.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from features.store import USERS, RowWrite
from features.store.redis import row_store


def hold_once(marker: Path) -> None:
    """Stop this process before its next write of user rows once the marker exists."""
    write = row_store.RedisRowStore.write

    async def held(self: row_store.RedisRowStore, writes: Sequence[RowWrite]) -> list[bool]:
        if marker.exists() and writes and writes[0].table is USERS:
            marker.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return await write(self, writes)

    row_store.RedisRowStore.write = held  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_once(Path(sys.argv[1]))
    if "unconditional" in sys.argv:
        # What a worker asks at its start names no column.
        row_store._WRITE_IF_UNCHANGED = (
            "if ARGV[3] then redis.call('HSET', KEYS[1], unpack(ARGV, 3)) end return 1"
        )
    from deploy.commands.worker import worker

    worker()
