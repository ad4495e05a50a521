"""What a worker did is the growth of its counters."""

from __future__ import annotations

import pytest

from bench.loop.__main__ import work_between


def test_batches_and_stages_are_averages_over_the_stretch() -> None:
    before = {("headwater_batch_events_sum", ""): 100.0, ("headwater_batch_events_count", ""): 10.0}
    after = {
        ("headwater_batch_events_sum", ""): 1100.0,
        ("headwater_batch_events_count", ""): 20.0,
        ("headwater_stage_seconds_sum", "absorb"): 0.5,
        ("headwater_retries_total", "ServerError"): 2.0,
    }
    found = work_between(before, after)
    assert found.batch_events == 100
    assert found.stage_ms == {"absorb": pytest.approx(50)}
    assert (found.retries, found.conflicts) == (2, 0)
