"""The faults of a soak are those of its seed, and strike everybody."""

from __future__ import annotations

from collections import Counter

from bench.soak.__main__ import SERVERS, FaultKind, plan_faults


def test_a_seed_names_its_faults_and_another_one_others() -> None:
    plan = plan_faults(1, 20_000, 12, 3)
    assert plan == plan_faults(1, 20_000, 12, 3) != plan_faults(2, 20_000, 12, 3)
    moments = [fault.at_event for fault in plan]
    assert moments == sorted(moments)
    assert moments[0] >= 1000
    assert moments[-1] < 20_000


def test_everybody_is_struck_where_there_are_faults_enough() -> None:
    plan = plan_faults(3, 20_000, 40, 3)
    struck = Counter(fault.target for fault in plan)
    assert set(struck) == {*SERVERS, "worker-0", "worker-1", "worker-2"}
    assert {fault.kind for fault in plan} == set(FaultKind)
    assert all(1 <= fault.stopped_s <= 9 for fault in plan)
