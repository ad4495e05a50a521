"""Ties in the order of the file, and items that are taken again."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.events import Purchase

from bench.quality.ours import learned_log, methods, scores, train_ours
from bench.quality.questions import (
    TEST,
    TRAINING,
    Protocol,
    Questions,
    Ties,
    answers_by_score,
    answers_in_lists,
    questions,
    ranks_by_score,
    ranks_in_lists,
    takes_of,
)
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from tests.harness.builders import START_S, click
from trainer.datasets import Log
from trainer.settings import TrainerSettings


def log_of(*events: tuple[str, str, int]) -> Log:
    """Events in time; inside a second in the order that is given."""
    clicks = [click(*event) for event in events]
    return Log(sorted(clicks, key=lambda event: event.timestamp), [])


# ann's last two share a second, d before c.
TIED = log_of(
    *(("ann", item, at) for item, at in (("a", 0), ("b", 5), ("d", 9), ("c", 9))),
    *(("bob", item, at) for at, item in enumerate("abcd")),
)
AGAIN = log_of(
    *(("ann", item, 3600 * at) for at, item in enumerate("ababa")),
    *(("bob", item, 3600 * at + 1) for at, item in enumerate("cdcdc")),
)


def question_of(asked: Questions, user: str) -> int:
    users = [asked.takes.user_ids[asked.takes.users[row]] for row in asked.firsts]
    return users.index(user)


def names(asked: Questions, items: np.ndarray) -> list[str]:
    return [asked.takes.item_ids[item] for item in items]


def test_in_file_order_each_take_is_asked_after_what_stands_before() -> None:
    takes = takes_of(TIED, Protocol.LEAVE_ONE_OUT)
    strict, file = (questions(takes, TEST, ties) for ties in Ties)
    for asked, history in ((strict, ["a", "b"]), (file, ["a", "b", "d"])):
        ann = question_of(asked, "ann")
        assert names(asked, asked.history(ann)) == history
        question, rows = asked.targets()
        assert names(asked, takes.items[rows[question == ann]]) == ["c"]


def test_in_file_order_every_other_item_is_a_wrong_answer() -> None:
    """Of the items of the second asked for in global time: under strict ties none is."""
    takes = takes_of(TIED, Protocol.GLOBAL_TIME)
    row = np.array([0.0, 0.0, 5.0, 3.0])  # a, b, c, d
    found = {}
    for ties in Ties:
        asked = questions(takes, TEST, ties)
        ranks = ranks_by_score(asked, 0, np.tile(row, (len(asked), 1)))
        found[ties] = dict(zip(names(asked, takes.items[asked.targets()[1]]), ranks, strict=True))
    assert found[Ties.STRICT] == {"d": 0, "c": 0}
    assert found[Ties.FILE] == {"d": 1, "c": 0}


def test_where_items_return_each_second_is_a_take() -> None:
    both = [click("ann", "a", 10), click("ann", "a", 10), click("ann", "a", 20)]
    takes = takes_of(Log(both, []), Protocol.LEAVE_ONE_OUT, repeats=True)
    assert takes.times_s.tolist() == [START_S + 10, START_S + 20]
    assert len(takes_of(Log(both, []), Protocol.LEAVE_ONE_OUT).items) == 1


def test_where_items_return_what_was_taken_is_a_wrong_answer() -> None:
    takes = takes_of(AGAIN, Protocol.LEAVE_ONE_OUT, repeats=True)
    asked = questions(takes, TEST)
    ann = question_of(asked, "ann")
    assert names(asked, asked.history(ann)) == ["a", "b", "a", "b"]
    order = np.array([[1, 0, 2, 3]] * len(asked))  # b before a
    by_score = ranks_by_score(asked, 0, -np.argsort(order).astype(float))
    assert by_score[ann] == 1
    np.testing.assert_array_equal(ranks_in_lists(asked, order), by_score)


def test_own_items_are_a_method_where_items_return() -> None:
    takes = takes_of(AGAIN, Protocol.LEAVE_ONE_OUT, repeats=True)
    asked = questions(takes, TEST)
    for method in methods(takes, live=False)["own items"]:
        (found,) = method(asked)
        best = np.argsort(-found[question_of(asked, "ann")])
        assert names(asked, best[:2]) == ["b", "a"]
    assert "own items" not in methods(takes_of(AGAIN, Protocol.LEAVE_ONE_OUT), live=False)


def test_training_ends_with_each_person_s_last_take() -> None:
    """An item of the training part that is met again later tells of the future."""
    for repeats in (False, True):
        takes = takes_of(AGAIN, Protocol.LEAVE_ONE_OUT, repeats)
        learned = learned_log(AGAIN, takes).events
        last_s = {
            takes.user_ids[user]: takes.times_s[(takes.users == user) & (takes.part == 0)].max()
            for user in range(2)
        }
        assert {one.user_id for one in learned} == {"ann", "bob"}
        assert all(one.timestamp // 1000 <= last_s[one.user_id] for one in learned)
    assert len(learned) == 6


def test_a_purchase_beside_its_click_is_learned_from_with_it() -> None:
    events = [click("ann", item, at) for at, item in enumerate("abcd")]
    events[1:1] = [
        Purchase(event_id="p", user_id="ann", item_id="a", timestamp=events[0].timestamp)
    ]
    log = Log(events, [])
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    assert [one.item_id for one in learned_log(log, takes).events] == ["a", "a", "b"]
    assert (takes.part == TRAINING).sum() == 2


def test_our_model_stands_before_the_take_that_is_asked_for() -> None:
    """In file order it knows of the take before in the same second; in none of what follows."""
    schema, settings = (
        FeatureSchema(FeatureSettings()),
        TrainerSettings(width=8, epochs=1, threads=1),
    )
    takes = takes_of(TIED, Protocol.LEAVE_ONE_OUT)
    ours = train_ours(TIED, takes, schema, settings, None)
    strict, file = (questions(takes, TEST, ties) for ties in Ties)
    before = [scores(ours, asked)[0] for asked in (strict, file)]
    # d, the first of ann's last second.
    ours.examples.items[ours.event_of["ann", START_S + 9, "d"]] = 2
    after = [scores(ours, asked)[0] for asked in (strict, file)]
    ann = [question_of(asked, "ann") for asked in (strict, file)]
    np.testing.assert_array_equal(before[0][ann[0]], after[0][ann[0]])
    assert not np.array_equal(before[1][ann[1]], after[1][ann[1]])


def test_coverage_counts_what_is_recommended_to_anyone() -> None:
    items = [f"i{at:02}" for at in range(20)]
    log = log_of(*(("ann", item, at) for at, item in enumerate(items)), ("bob", "i00", 0))
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    asked = questions(takes, TEST)
    assert len(asked) == 1
    row = -np.arange(20.0)
    # ann has taken all but the last: the one item that is left is all that she is shown.
    assert np.flatnonzero(answers_by_score(asked, [row[None]]).shown).tolist() == [19]
    listed = answers_in_lists(asked, np.arange(20)[None])
    assert np.flatnonzero(listed.shown).tolist() == [19]
    assert listed.ranks.tolist() == [0]
    nothing = np.full((1, 20), -np.inf)
    assert not answers_by_score(asked, [nothing]).shown.any()


def test_where_items_return_the_best_ten_are_shown() -> None:
    takes = takes_of(AGAIN, Protocol.LEAVE_ONE_OUT, repeats=True)
    asked = questions(takes, TEST)
    top = np.tile([0, 1, -1], (len(asked), 1))
    assert answers_in_lists(asked, top).shown.tolist() == [True, True, False, False]


@pytest.mark.parametrize("repeats", [False, True])
def test_every_person_s_questions_are_of_the_part_asked_for(repeats: bool) -> None:
    takes = takes_of(AGAIN, Protocol.LEAVE_ONE_OUT, repeats)
    for ties in Ties:
        _, rows = questions(takes, TEST, ties).targets()
        assert (takes.part[rows] == TEST).all()
        assert len(rows) == (takes.part == TEST).sum()
