"""Damage does what it says and no more; a damaged history passes through the stream's own rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from headwater_client.events import Click, Interaction
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality import robustness
from bench.quality.questions import TEST, Protocol, questions, takes_of
from bench.quality.robustness import (
    DAMAGES,
    NOBODYS_ITEM,
    ArrivedHistory,
    AskedHistories,
    asked_of,
    curves,
    gains_of,
    row_of,
    rows_of,
    summary,
)
from features.rows import apply_event, empty_user
from features.schema import FeatureSchema
from features.settings import DAY_MS, FeatureSettings
from trainer.datasets import Log

START_MS = 1_700_000_000_000
# A busy machine is no failure.
unhurried = settings(deadline=None, max_examples=50)
rates = st.floats(0, 1)
seeds = st.integers(0, 1000)
histories = st.lists(st.integers(0, 10**6), max_size=30).map(
    lambda times: ArrivedHistory.from_times([START_MS + time for time in sorted(times)])
)
damages = st.sampled_from(list(DAMAGES))


def damaged(name: str, history: ArrivedHistory, rate: float, seed: int = 0) -> ArrivedHistory:
    return DAMAGES[name](history, rate, np.random.default_rng(seed))


def columns(history: ArrivedHistory) -> list[list[int]]:
    return [history.events.tolist(), history.times_ms.tolist(), history.known.tolist()]


@unhurried
@given(damages, histories, seeds)
def test_rate_0_changes_nothing(name: str, history: ArrivedHistory, seed: int) -> None:
    assert columns(damaged(name, history, 0, seed)) == columns(history)


@unhurried
@given(damages, histories, rates, seeds)
def test_damage_leaves_what_it_is_given_as_it_was(
    name: str, history: ArrivedHistory, rate: float, seed: int
) -> None:
    before = columns(history)
    damaged(name, history, rate, seed)
    assert columns(history) == before


@unhurried
@given(damages, histories, rates, seeds)
def test_columns_stay_as_long_and_tell_of_events_that_were_there(
    name: str, history: ArrivedHistory, rate: float, seed: int
) -> None:
    found = damaged(name, history, rate, seed)
    assert len({len(column) for column in columns(found)}) == 1
    assert set(found.events.tolist()) <= set(history.events.tolist())


@unhurried
@given(histories, rates, seeds)
def test_what_is_not_lost_stays_in_order(history: ArrivedHistory, rate: float, seed: int) -> None:
    found = damaged("events lost", history, rate, seed)
    assert (np.diff(found.events) > 0).all()
    assert (found.times_ms == history.times_ms[found.events]).all()
    assert not len(damaged("events lost", history, 1, seed))


@unhurried
@given(histories, rates, seeds)
def test_swaps_keep_all_events_and_move_each_by_one_place(
    history: ArrivedHistory, rate: float, seed: int
) -> None:
    found = damaged("neighbours swapped", history, rate, seed)
    assert Counter(found.events.tolist()) == Counter(history.events.tolist())
    assert (np.abs(found.events - history.events) <= 1).all()
    assert (found.times_ms == history.times_ms).all()


@unhurried
@given(histories, rates, seeds)
def test_an_event_arrives_twice_at_most(history: ArrivedHistory, rate: float, seed: int) -> None:
    found = damaged("events doubled", history, rate, seed)
    assert set(Counter(found.events.tolist()).values()) <= {1, 2}
    assert set(found.events.tolist()) == set(history.events.tolist())
    assert len(damaged("events doubled", history, 1, seed)) == 2 * len(history)


@unhurried
@given(histories, seeds)
def test_at_rate_1_no_item_is_known(history: ArrivedHistory, seed: int) -> None:
    found = damaged("items unknown", history, 1, seed)
    assert not found.known.any()
    assert len(found) == len(history)


@unhurried
@given(histories, rates, seeds)
def test_clocks_err_by_no_more_than_they_may(
    history: ArrivedHistory, rate: float, seed: int
) -> None:
    found = damaged("clocks +-10 s", history, rate, seed)
    assert (np.abs(found.times_ms - history.times_ms) <= 10_000).all()
    assert found.events.tolist() == history.events.tolist()


@unhurried
@given(histories, seeds)
def test_a_wrong_clock_is_wrong_for_the_whole_history(history: ArrivedHistory, seed: int) -> None:
    ahead = damaged("people a day ahead", history, 1, seed)
    assert (ahead.times_ms - history.times_ms == DAY_MS).all()
    back = damaged("people backwards", history, 1, seed)
    assert (np.diff(back.times_ms) <= 0).all()
    if len(history):
        assert back.times_ms.max() == history.times_ms.max()


@unhurried
@given(histories, st.tuples(rates, rates), seeds)
def test_what_is_lost_at_a_rate_is_lost_at_a_higher_one(
    history: ArrivedHistory, two: tuple[float, float], seed: int
) -> None:
    less, more = (
        set(damaged("events lost", history, rate, seed).events.tolist()) for rate in sorted(two)
    )
    assert more <= less


@pytest.fixture
def schema() -> FeatureSchema:
    return FeatureSchema(FeatureSettings(history_length=4))


@pytest.fixture
def log() -> Log:
    """Six people, some of whose events share a second."""
    random = np.random.default_rng(2)
    events: list[Interaction] = []
    for person in range(6):
        for place, item in enumerate(random.permutation(20)[:12]):
            time_ms = START_MS + 1000 * (100 * person + 60 * (place // 2))
            name = f"{person}-{place}"
            events.append(
                Click(event_id=name, user_id=f"u{person}", item_id=f"i{item}", timestamp=time_ms)
            )
    return Log(sorted(events, key=lambda event: event.timestamp), [])


@pytest.fixture
def asked(log: Log) -> AskedHistories:
    return asked_of(log, questions(takes_of(log, Protocol.GLOBAL_TIME), TEST))


def test_what_is_known_lies_strictly_before_the_question(log: Log, asked: AskedHistories) -> None:
    assert len(asked.pasts) == len(asked.questions) > 0
    takes = asked.questions.takes
    for question, (past, time_ms) in enumerate(zip(asked.pasts, asked.times_ms, strict=True)):
        user = takes.user_ids[takes.users[asked.questions.firsts[question]]]
        assert time_ms // 1000 == asked.questions.times_s[question]
        assert all(event.time_ms < time_ms and event.user_id == user for event in past)
        mine = [e for e in log.events if e.user_id == user and e.timestamp < time_ms]
        assert len(past) == len(mine)


@pytest.mark.parametrize("name", DAMAGES)
def test_nothing_after_the_question_is_in_a_row(
    asked: AskedHistories, schema: FeatureSchema, name: str
) -> None:
    found = rows_of(asked, schema, DAMAGES[name], 0.5, 1)
    for row, past in zip(found, asked.pasts, strict=True):
        before = {event.item for event in past} | {NOBODYS_ITEM}
        assert {item for _, _, item in row.history} <= before


def test_an_undamaged_row_is_the_stream_s(asked: AskedHistories, schema: FeatureSchema) -> None:
    for row, past in zip(rows_of(asked, schema), asked.pasts, strict=True):
        expected = empty_user(schema)
        for event in past:
            apply_event(expected, event, schema)
        assert row.history == expected.history
        assert row.counters == expected.counters
        assert row.seen == expected.seen


def test_a_row_holds_a_damaged_history_by_its_clocks(
    asked: AskedHistories, schema: FeatureSchema
) -> None:
    past = asked.pasts[-1]
    history = ArrivedHistory.from_times([event.time_ms for event in past])
    back = damaged("people backwards", history, 1)
    row = row_of(past, back, schema)
    assert row.history == sorted(row.history)
    assert len(row.history) == schema.settings.history_length
    assert {item for _, _, item in row.history} == {event.item for event in past[:4]}


def test_a_sample_keeps_questions_and_histories_together(asked: AskedHistories) -> None:
    some = asked.sample(3, 0)
    assert len(some.pasts) == len(some.questions) == 3
    for question, past in enumerate(some.pasts):
        place = asked.questions.firsts.tolist().index(some.questions.firsts[question])
        assert past == asked.pasts[place]
    assert len(asked.sample(10_000, 0).pasts) == len(asked.pasts)


def test_histories_without_a_single_event_have_an_answer(
    log: Log, asked: AskedHistories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "load_text_encoder", lambda *_: None)
    small = robustness.TrainerSettings(width=8, epochs=1, threads=1, language_model="")
    ours = robustness.train_on(log, asked.questions, small)
    lost = {name: DAMAGES[name] for name in ("events lost", "items unknown")}
    clean, found = curves(ours, asked, (0.0, 1.0), 0, lost)
    assert (found["events lost"][0.0] == clean).all()
    assert all(np.isfinite(found[name][1.0]).all() for name in lost)
    empty = [empty_user(ours.schema)] * len(asked.pasts)
    np.testing.assert_array_equal(found["events lost"][1.0], gains_of(ours, asked, empty))


def test_a_summary_says_what_is_left() -> None:
    clean, people = np.array([1.0, 0.5, 0.5]), np.array([1, 1, 2])
    found = summary(clean, {"events lost": {0.5: clean / 2}}, people)
    (point,) = found["damaged"]["events lost"]
    assert point["share"] == pytest.approx(0.5)
    low, high = point["change_interval"]
    assert low <= -clean.mean() / 2 <= high < 0
