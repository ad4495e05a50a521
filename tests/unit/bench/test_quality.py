"""What is asked, what counts as right, and that nobody sees what comes later."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.events import Interaction, Purchase

from bench.quality.figures import figures, groups
from bench.quality.ours import ease, first_member, methods, scores, train_ours
from bench.quality.questions import (
    MISSED,
    TEST,
    VALIDATION,
    Protocol,
    Takes,
    answers_by_score,
    questions,
    ranks_by_score,
    ranks_in_lists,
    takes_of,
)
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from tests.harness.builders import START_S, click
from trainer.datasets import Log
from trainer.metrics import bootstrap_interval, ndcg
from trainer.settings import TrainerSettings


@pytest.fixture
def log() -> Log:
    """Ten people; of ann two takes in one second are the last."""
    random = np.random.default_rng(1)
    events: list[Interaction] = [
        click("ann", item, at) for item, at in (("a", 0), ("b", 5), ("c", 9000), ("d", 9000))
    ]
    events.append(
        Purchase(event_id="p", user_id="ann", item_id="a", timestamp=1000 * (START_S + 1))
    )
    for person in range(9):
        for at, item in enumerate(random.permutation(list("abcdefgh"))[:5]):
            events.append(click(f"u{person}", str(item), 100 * person + 7 * at))
    return Log(sorted(events, key=lambda event: event.timestamp), [])


def test_a_person_takes_an_item_once(log: Log) -> None:
    takes = takes_of(log, Protocol.GLOBAL_TIME)
    ann = takes.users == takes.user_ids.index("ann")
    assert [takes.item_ids[item] for item in takes.items[ann]] == ["a", "b", "c", "d"]
    assert (np.diff(takes.times_s[ann]) >= 0).all()


def test_the_last_two_takes_of_each_person_are_left_out(log: Log) -> None:
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    for user in range(len(takes.user_ids)):
        part = takes.part[takes.users == user]
        assert part.tolist() == [0] * (len(part) - 2) + [VALIDATION, TEST]


def test_the_last_tenth_of_time_is_the_test(log: Log) -> None:
    takes = takes_of(log, Protocol.GLOBAL_TIME)
    newest = [takes.times_s[takes.part == part] for part in range(3)]
    assert newest[0].max() <= newest[1].min() <= newest[1].max() <= newest[2].min()
    assert len(newest[2]) / len(takes.items) == pytest.approx(0.1, abs=0.05)


def test_the_same_second_is_neither_history_nor_wrong(log: Log) -> None:
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    asked = questions(takes, TEST)
    ann = next(
        q for q in range(len(asked)) if takes.user_ids[takes.users[asked.firsts[q]]] == "ann"
    )
    names = [takes.item_ids[item] for item in asked.history(ann)]
    assert names == ["a", "b"]
    # The second's other take, and what was taken before, stand above the target.
    row = np.full(len(takes.item_ids), 0.0)
    for place, name in enumerate("abcde"):
        row[takes.item_ids.index(name)] = 10 - place
    question, rows = asked.targets()
    (mine,) = np.flatnonzero(question == ann)
    target = takes.item_ids[takes.items[rows[mine]]]
    assert target in "cd"
    scores_ = np.tile(row, (len(asked), 1))
    assert ranks_by_score(asked, 0, scores_)[mine] == 0


def test_ties_count_half_and_what_a_method_does_not_know_is_missed(log: Log) -> None:
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    asked = questions(takes, TEST)
    open_items = [
        len(takes.item_ids) - (asked.ends[q] - asked.starts[q]) for q in range(len(asked))
    ]
    ranks = ranks_by_score(asked, 0, np.zeros((len(asked), len(takes.item_ids))))
    assert ranks.tolist() == [count / 2 for count in open_items]
    unknown = np.full((len(asked), len(takes.item_ids)), -np.inf)
    assert (ranks_by_score(asked, 0, unknown) == MISSED).all()


def test_lists_and_scores_give_the_same_ranks(log: Log) -> None:
    takes = takes_of(log, Protocol.GLOBAL_TIME)
    asked = questions(takes, VALIDATION)
    random = np.random.default_rng(0).random((len(asked), len(takes.item_ids)))
    for question in range(len(asked)):
        random[question, asked.history(question)] = -1
    top = np.argsort(-random, axis=1)
    np.testing.assert_array_equal(ranks_in_lists(asked, top), ranks_by_score(asked, 0, random))
    assert (ranks_in_lists(asked, np.full_like(top, -1)) == MISSED).all()


def test_groups_say_who_returned_and_who_is_new(log: Log) -> None:
    asked = questions(takes_of(log, Protocol.LEAVE_ONE_OUT), TEST)
    question, rows = asked.targets()
    users = asked.takes.users[rows]
    ann = users == asked.takes.user_ids.index("ann")
    found = groups(asked)
    assert found["return_visits"].tolist() == ann.tolist()
    assert not found["first_requests"].any()
    assert not found["new_people"].any()
    assert len(question) == len(users) == 10


def test_figures_and_their_interval() -> None:
    ranks = np.array([0.0, 9.0, 10.0, MISSED])
    assert ndcg(ranks).tolist() == pytest.approx([1, 1 / np.log2(11), 0, 0])
    low, high = bootstrap_interval(ndcg(np.array([0.0] * 50 + [20.0] * 50)), np.arange(100))
    assert 0.35 < low < 0.5 < high < 0.65
    assert bootstrap_interval(np.ones(4), np.array([1, 1, 2, 3])) == [1, 1]


def test_counting_methods_do_not_see_the_test(log: Log) -> None:
    """Other takes in the test change no score but those of what counts live."""
    for protocol in Protocol:
        takes = takes_of(log, protocol)
        asked = questions(takes, TEST)
        swapped = takes.items.copy()
        swapped[takes.part == TEST] = (swapped[takes.part == TEST] + 1) % len(takes.item_ids)
        other = Takes(
            takes.users, swapped, takes.times_s, takes.part, takes.user_ids, takes.item_ids
        )
        for name, variants in methods(takes, live=False).items():
            for one, same in zip(variants, methods(other, live=False)[name], strict=True):
                # History is read of `asked` in both: only what was counted can differ.
                for mine, theirs in zip(one(asked), same(asked), strict=True):
                    np.testing.assert_array_equal(mine, theirs)


def test_ease_has_no_say_of_an_item_about_itself() -> None:
    people = np.random.default_rng(0).integers(0, 2, (20, 6)).astype(float)
    weights = ease(people, 10.0)
    assert not np.diag(weights).any()
    # Its closed form: each column is a ridge regression on the other items.
    others = np.delete(people, 2, axis=1)
    ridge = np.linalg.solve(others.T @ others + 10 * np.eye(5), others.T @ people[:, 2])
    np.testing.assert_allclose(np.delete(weights[:, 2], 2), ridge)


def test_the_first_member_is_the_model_of_its_own_training(log: Log) -> None:
    schema, settings = (
        FeatureSchema(FeatureSettings()),
        TrainerSettings(width=8, epochs=1, threads=1),
    )
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    asked = questions(takes, TEST)
    alone, together = (
        train_ours(
            log,
            takes,
            schema,
            settings.model_copy(update={"ensemble_size": members}),
            None,
        )
        for members in (1, 2)
    )
    (of_both,), (of_first,) = scores(together, asked), scores(first_member(together), asked)
    np.testing.assert_array_equal(of_first, scores(alone, asked)[0])
    assert (of_both != of_first).any()


def test_our_model_is_asked_before_the_second(log: Log) -> None:
    """What happens in the second that is asked for, or later, changes no score."""
    schema, settings = (
        FeatureSchema(FeatureSettings()),
        TrainerSettings(width=8, epochs=1, threads=1),
    )
    takes = takes_of(log, Protocol.LEAVE_ONE_OUT)
    asked = questions(takes, TEST)
    ours = train_ours(log, takes, schema, settings, None)
    (found,) = scores(ours, asked)
    assert found.shape == (len(asked), len(takes.item_ids))
    later = np.zeros(len(ours.examples), bool)
    for question in range(len(asked)):
        row = asked.firsts[question]
        at = ours.first_of[takes.user_ids[takes.users[row]], int(takes.times_s[row])]
        same_person = ours.examples.starts == ours.examples.starts[at]
        later |= same_person & (np.arange(len(later)) >= at)
    assert later.sum() >= len(asked)
    ours.examples.items[later] = 2
    ours.examples.types[later] = 2
    (again,) = scores(ours, asked)
    np.testing.assert_array_equal(found, again)
    assert (
        figures(asked, answers_by_score(asked, [found]))["groups"]["return_visits"]["targets"] == 1
    )
