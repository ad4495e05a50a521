"""However time is cut into slots, and whatever the clock does: what was counted is what is told."""

from __future__ import annotations

from collections.abc import Sequence

from headwater_client.admin.now import Span
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.console.history import History, Slot, look_at, merge, quantile
from deploy.console.readings import BEGAN, CounterWatch, Reading

NOON_S = 1_764_028_800.0
# Whole numbers, so that sums are exact.
slots = st.builds(
    Slot,
    st.integers(0, 60).map(float),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000).map(float)),
    st.dictionaries(st.sampled_from("lm"), st.integers(-9, 9).map(lambda v: look_at(float(v)))),
)


@given(st.lists(slots, max_size=12), st.data())
def test_slots_add_up_in_any_order_and_grouping(seen: Sequence[Slot], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(seen)))
    other = data.draw(st.permutations(seen))
    assert merge([merge(other[:cut]), Slot(), merge(other[cut:])]) == merge(seen)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(slots, st.integers(-200, 200)), min_size=1, max_size=30))
def test_each_span_tells_all_that_was_counted_in_it(seen: Sequence[tuple[Slot, int]]) -> None:
    """The clock goes forth and back, by less than an hour: nothing is lost, nothing is twice."""
    now_s = NOON_S
    history = History(None, lambda: now_s)
    times = []
    for slot, step in seen:
        now_s = min(max(now_s + step, NOON_S - 1500), NOON_S + 1500)
        times.append(now_s)
        history.add(slot)
    now_s = max(times)
    whole = merge(slot for slot, _ in seen)
    for span in Span:
        assert merge(slot for _, slot in history.read(span)) == whole
        assert history.total(span) == whole
        assert all(slot.rate(sum(slot.counts.values())) != -1 for _, slot in history.read(span))
    history.close()


# A process counts so many, or ends and another begins in its place; or it is away for a look.
steps = st.lists(
    st.tuples(st.sampled_from(("counts", "begins", "away")), st.integers(0, 50)), max_size=30
)


@given(steps)
def test_no_restart_makes_a_negative_rate_or_loses_a_count(drawn: list[tuple[str, int]]) -> None:
    watch, began_s, now_s = CounterWatch(), 100.0, 1000.0
    value = unseen = told = counted = 0.0
    watch.take(_say(began_s, value), now_s)
    for what, number in drawn:
        now_s += 2
        if what == "begins":
            # What it had counted and nobody had seen went with it.
            counted -= unseen
            began_s, value, unseen = now_s, 0.0, 0.0
        value += number
        unseen += number
        counted += number
        if what == "away":
            continue
        grown = watch.take(_say(began_s, value), now_s)
        assert all(increase > 0 for increase in grown.values())
        told += sum(grown.values())
        unseen = 0.0
    assert told == counted - unseen


def _say(began_s: float, value: float) -> list[Reading]:
    counter = Reading("w", "headwater_events_total", {"topic": "clicks"}, value)
    return [Reading("w", BEGAN, {}, began_s), counter]


@given(
    st.lists(st.floats(0, 12, exclude_max=True), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(
    values: Sequence[float], fraction: float
) -> None:
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, float("inf")]
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in bounds}
    found = quantile(buckets, fraction)
    # The smallest value that at least this fraction of all are not above.
    ordered = sorted(values)
    true = next(v for at, v in enumerate(ordered, 1) if at >= fraction * len(values))
    above = next(bound for bound in bounds if true <= bound)
    below = max([0.0, *(bound for bound in bounds if bound < above)])
    assert found is not None
    assert below <= found <= (8.0 if above == float("inf") else above)
