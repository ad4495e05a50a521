"""Instants are cut in two at random places, and nothing is lost or told twice."""

from __future__ import annotations

import numpy as np

from trainer.examples import Examples
from trainer.examples.batches import find_tie_groups, number_tied_items, shuffle_ties


def test_instants_cover_all_events_and_keep_a_person_s_moment_together(columns: Examples) -> None:
    found = find_tie_groups(columns)
    assert found.firsts.tolist() == [0, *found.ends[:-1].tolist()]
    assert found.ends[-1] == len(columns)
    moments = list(zip(columns.starts.tolist(), columns.times_ms.tolist(), strict=True))
    assert len(found) == len(set(moments))
    for first, end in zip(found.firsts, found.ends, strict=True):
        assert len(set(moments[first:end])) == 1


def test_nobody_has_no_instants(columns: Examples) -> None:
    nothing = Examples(*(getattr(columns, name)[:0] for name in Examples.__dataclass_fields__))
    assert len(find_tie_groups(nothing).split(1.0, np.random.default_rng(0))) == 0


def test_a_share_is_cut_in_two_parts_that_are_not_empty(columns: Examples) -> None:
    whole = find_tie_groups(columns)
    several = int((whole.ends - whole.firsts > 1).sum())
    for share, least, most in ((0.0, 0, 0), (0.5, several // 4, several), (1.0, several, several)):
        found = whole.split(share, np.random.default_rng(0))
        assert least <= len(found) - len(whole) <= most
        assert found.firsts.tolist() == [0, *found.ends[:-1].tolist()]
        assert (found.ends > found.firsts).all()
        assert (found.whole_firsts <= found.firsts).all()
        assert (found.whole_ends >= found.ends).all()
    assert set(zip(found.whole_firsts, found.whole_ends, strict=True)) == set(
        zip(whole.firsts, whole.ends, strict=True)
    )


def test_a_shuffle_moves_events_within_their_instant_only(columns: Examples) -> None:
    found = [
        shuffle_ties(columns, number_tied_items(columns), np.random.default_rng(seed))
        for seed in range(5)
    ]
    for order in found:
        assert sorted(order) == list(range(len(columns)))
        assert (columns.starts[order] == columns.starts).all()
        assert (columns.times_ms[order] == columns.times_ms).all()
    assert len({tuple(order) for order in found}) == 5


def test_a_shuffle_keeps_the_events_of_one_item_together_and_in_order(columns: Examples) -> None:
    order = shuffle_ties(columns, number_tied_items(columns), np.random.default_rng(0)).tolist()
    places = {event: place for place, event in enumerate(order)}
    pairs = 0
    for event in range(1, len(columns)):
        before = event - 1
        if all(
            key[event] == key[before] for key in (columns.starts, columns.times_ms, columns.items)
        ):
            assert places[event] == places[before] + 1
            pairs += 1
    assert pairs > 5
