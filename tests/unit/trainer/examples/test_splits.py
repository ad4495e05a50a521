"""What a fine-tune learns, stops by and leaves to the gate never overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.errors import DataError

from trainer.examples import Examples, split_by_time
from trainer.examples.splits import RUN_LENGTH, sample_runs
from trainer.settings import FineTuneSettings

SETTINGS = FineTuneSettings(early_stopping_fraction=0.2, gate_fraction=0.1)


def test_the_newest_are_judged_and_those_before_tell_when_to_stop() -> None:
    times_ms = np.arange(1000, 1100)
    cut = split_by_time(np.random.default_rng(0).permutation(times_ms), 999, SETTINGS)
    parts = [cut.learned_mask(times_ms), cut.stopping_mask(times_ms), cut.holdout_mask(times_ms)]
    assert [part.sum() for part in parts] == [70, 20, 10]
    assert (np.sum(parts, axis=0) == 1).all()


def test_an_instant_is_in_one_slice() -> None:
    times_ms = np.repeat(np.arange(10), 10)
    cut = split_by_time(
        times_ms, -1, FineTuneSettings(early_stopping_fraction=0.25, gate_fraction=0.25)
    )
    assert [
        part(times_ms).sum() for part in (cut.learned_mask, cut.stopping_mask, cut.holdout_mask)
    ] == [
        50,
        20,
        30,
    ]


def test_what_the_live_version_did_not_learn_is_new_in_the_next_window() -> None:
    """The slices of one window are learned with the next one."""
    first = split_by_time(np.arange(100), -1, SETTINGS)
    live_ms = first.stop_ms - 1
    second = split_by_time(np.arange(200), live_ms, SETTINGS)
    held_out = np.arange(first.stop_ms, 100)
    assert second.learned_mask(held_out).all()


@pytest.mark.parametrize("times_ms", [[5], [5, 5, 5]])
def test_a_window_that_cannot_be_cut_is_learned_whole(times_ms: list[int]) -> None:
    cut = split_by_time(np.array(times_ms), 4, SETTINGS)
    assert cut.learned_mask(np.array(times_ms)).all()


@pytest.mark.parametrize(
    ("since_ms", "message"),
    [
        (9, "none of the 10 events is later than 9 ms"),
        (None, "does not say what it was trained on"),
    ],
)
def test_nothing_new_is_an_error(since_ms: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_by_time(np.arange(10), since_ms, SETTINGS)


def many_people(columns: Examples, people: int = 40, events: int = 70) -> Examples:
    """Rows of so many people, of whom only the places matter here."""
    size = people * events
    some = np.arange(size) % len(columns)
    taken = {
        name: getattr(columns, name)[some]
        for name in ("items", "types", "is_target", "marks_seen", "features", "features_after_last")
    }
    starts = np.arange(size) // events * events
    return Examples(times_ms=np.arange(size), starts=starts, **taken)


def test_every_earlier_event_is_as_likely(columns: Examples) -> None:
    known = many_people(columns)
    earlier = np.arange(len(known)) % 70 < 50
    drawn = np.zeros(len(known))
    draws = 300
    for seed in range(draws):
        chosen = sample_runs(earlier, known, 400, np.random.default_rng(seed))
        assert not chosen[~earlier].any()
        assert abs(chosen.sum() - 400) <= RUN_LENGTH
        drawn += chosen
    share = drawn[earlier].mean() / draws
    assert share == pytest.approx(400 / 2000, rel=0.1)
    # By place in a person's events: none is favoured for standing first, last or between.
    by_place = drawn.reshape(40, 70)[:, :50].mean(0) / draws
    assert np.abs(by_place / share - 1).max() < 0.2


def test_the_same_seed_draws_the_same(columns: Examples) -> None:
    known = many_people(columns)
    earlier = np.ones(len(known), bool)
    one, same, other = (
        sample_runs(earlier, known, 300, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_little_is_drawn_whole_and_nothing_is_nothing(columns: Examples) -> None:
    generator = np.random.default_rng(0)
    earlier = np.arange(len(columns)) < 20
    np.testing.assert_array_equal(sample_runs(earlier, columns, 1000, generator), earlier)
    assert not sample_runs(earlier, columns, 0, generator).any()
