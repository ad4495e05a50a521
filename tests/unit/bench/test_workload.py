"""A workload without end is made of a log: each person's order kept, ids never twice."""

from __future__ import annotations

from itertools import islice

from headwater_client.events import Click

from bench.harness.load import PASSES, Order, generate_workload, mix_people, pass_ms

HOUR_MS = 3_600_000
START_MS = 1_000_000_000_000
LOG = [
    Click(event_id=f"{user}-{n}", user_id=user, item_id=str(n), timestamp=START_MS + n * HOUR_MS)
    for user in ("ann", "bob", "cid")
    for n in range(50)
]


def test_mixed_events_keep_each_persons_order() -> None:
    events = mix_people(LOG)
    assert sorted(e.event_id for e in events) == sorted(e.event_id for e in LOG)
    for user in ("ann", "bob", "cid"):
        own = [e.item_id for e in events if e.user_id == user]
        assert own == [str(n) for n in range(50)]


def test_mixed_events_have_many_people_at_once() -> None:
    assert len({e.user_id for e in LOG[:10]}) == 1
    starts = range(0, len(LOG), 10)
    assert all(len({e.user_id for e in mix_people(LOG)[at : at + 10]}) > 1 for at in starts)


def test_each_pass_has_new_ids_and_later_times() -> None:
    events = list(islice(generate_workload(LOG, Order.LOGGED), 3 * len(LOG)))
    assert len({e.event_id for e in events}) == len(events)
    assert [e.user_id for e in events] == 3 * [e.user_id for e in LOG]
    first, second = events[: len(LOG)], events[len(LOG) : 2 * len(LOG)]
    assert first == LOG
    assert min(e.timestamp for e in second) > max(e.timestamp for e in first)


def test_newcomers_do_what_others_did_before_them() -> None:
    events = list(islice(generate_workload(LOG, Order.LOGGED, newcomers=True), 2 * len(LOG)))
    first, second = events[: len(LOG)], events[len(LOG) :]
    assert {e.user_id for e in first}.isdisjoint(e.user_id for e in second)
    assert [e.item_id for e in first] == [e.item_id for e in second]


def test_no_pass_lies_in_the_future() -> None:
    last = max(e.timestamp for e in LOG)
    now_ms = last + 5 * HOUR_MS
    assert last + PASSES * pass_ms(LOG, now_ms) <= now_ms
    assert pass_ms(LOG, last - HOUR_MS) == 0
