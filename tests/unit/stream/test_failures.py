"""What is tried again in place, and what ends the worker."""

from __future__ import annotations

import subprocess
import sys

import pytest
from headwater_client.errors import ServerError

from features.positions import PositionError
from features.store import StoreRefusalError, StoreRestartedError, StoreUnavailableError
from stream.failures import EXIT_FAILED, is_transient


def test_a_server_that_is_away_is_waited_for_and_one_that_lost_rows_is_not() -> None:
    assert is_transient(ServerError("away"))
    assert not is_transient(StoreRestartedError("restarted"))
    assert not is_transient(PositionError("made anew"))
    assert is_transient(StoreUnavailableError("full", "full"))
    assert not is_transient(StoreRefusalError("wrong password"))
    assert not is_transient(ValueError("a fault of ours"))


@pytest.mark.parametrize("error", ["ServerError('away')", "KeyError('x')"])
def test_a_failed_task_ends_the_process_at_once(error: str) -> None:
    code = f"""
import asyncio
from headwater_client.errors import ServerError
from stream.failures import critical_task

async def fail():
    raise {error}

async def main():
    asyncio.create_task(critical_task(fail)())
    await asyncio.sleep(60)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == EXIT_FAILED
    assert "worker_ends" in done.stdout
