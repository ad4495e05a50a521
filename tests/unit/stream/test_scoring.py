"""A model server that is away costs one time-out, not one a batch."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from features.inputs import Tensor
from stream.scoring import NotAskedError, Scorer, ScoringError
from stream.settings import TritonSettings


async def ask(scorer: Scorer, version: int, *, on_trial: bool) -> None:
    await scorer.score(version, {"item_indices": np.zeros((1, 1), np.int64)}, on_trial=on_trial)


@asynccontextmanager
async def scorer_of(url: str) -> AsyncIterator[Scorer]:
    settings = TritonSettings(url=url, timeout_ms=400, canary_timeout_ms=50)
    scorer = Scorer(settings, (Tensor("item_indices", np.int64, (-1,)),), ())
    try:
        yield scorer
    finally:
        await scorer.close()


async def ask_nobody() -> None:
    async with scorer_of("127.0.0.1:9") as scorer:
        with pytest.raises(ScoringError, match="version 1: Triton is away") as failed:
            await ask(scorer, 1, on_trial=False)
        assert "127.0.0.1" not in str(failed.value)
        with pytest.raises(NotAskedError, match="version 1: not asked"):
            await ask(scorer, 1, on_trial=False)
        with pytest.raises(ScoringError, match="version 2: Triton is away"):
            await ask(scorer, 2, on_trial=True)


def test_nobody_there_is_a_scoring_error_and_then_that_version_is_not_asked() -> None:
    asyncio.run(ask_nobody())


async def ask_one_who_never_answers(port: int) -> list[float]:
    """How long each of three calls takes that begin together; the third asks the stable version."""
    async with scorer_of(f"127.0.0.1:{port}") as scorer:

        async def seconds(*, on_trial: bool) -> float:
            start = time.monotonic()
            with pytest.raises(ScoringError):
                await ask(scorer, 2 if on_trial else 1, on_trial=on_trial)
            return time.monotonic() - start

        return await asyncio.gather(*(seconds(on_trial=trial) for trial in (True, True, False)))


def test_a_version_on_trial_has_less_time_and_waiting_for_its_turn_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        first, second, stable = asyncio.run(ask_one_who_never_answers(silent.getsockname()[1]))
    assert 0.04 < first < 0.3
    assert second < 0.3
    assert stable > 0.35
