"""A model server that is away costs one time-out, not one a batch."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from features.inputs import Tensor
from stream.scoring import Breaker, Scorer, ScoringError
from stream.settings import TritonSettings


def test_a_tripped_breaker_rests_and_closes_by_itself() -> None:
    now = [0.0]
    breaker = Breaker(rest_s=1.0, clock=lambda: now[0])
    assert not breaker.open
    breaker.trip()
    assert breaker.open
    now[0] = 1.0
    assert not breaker.open


async def ask_nobody() -> None:
    settings = TritonSettings(url="127.0.0.1:9", timeout_ms=200)
    tensor = Tensor("item_indices", np.int64, (-1,))
    scorer = Scorer(settings, (tensor,), ())
    try:
        for reason in ("Triton at 127.0.0.1:9", "not asked"):
            with pytest.raises(ScoringError, match=reason):
                await scorer.score(1, {"item_indices": np.zeros((1, 1), np.int64)})
    finally:
        await scorer.close()


def test_nobody_there_is_a_scoring_error_and_then_not_asked() -> None:
    asyncio.run(ask_nobody())
