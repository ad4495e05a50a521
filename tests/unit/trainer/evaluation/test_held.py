"""The same held-out events, as versions with other vocabularies see them."""

from __future__ import annotations

import numpy as np

from features.schema import FIRST_ITEM, UNKNOWN, Vocabulary
from trainer.evaluation import HoldoutSet
from trainer.evaluation.evaluate import merge_vocabularies
from trainer.examples import Examples, ItemTrends


def test_each_version_sees_its_own_indices(
    columns: Examples, trended: ItemTrends, vocabulary: Vocabulary
) -> None:
    held = HoldoutSet(columns, columns.is_target, trended, vocabulary)
    names = vocabulary.item_ids[FIRST_ITEM:]
    other = Vocabulary(["new", *reversed(names[3:])])
    seen = held.translate_to(other)
    for mine, theirs in zip(columns.items, seen.columns.items, strict=True):
        name = vocabulary.item_ids[mine]
        assert other.item_ids[theirs] == (name if name in other.item_ids else "")
    (gone,) = vocabulary.indices_of([names[0]])
    assert (columns.items == gone).any()
    assert (seen.columns.items[columns.items == gone] == UNKNOWN).all()
    (before,), (after,) = vocabulary.indices_of([names[9]]), other.indices_of([names[9]])
    np.testing.assert_array_equal(seen.trended.values[:, :, after], trended.values[:, :, before])
    assert not seen.trended.values[:, :, [UNKNOWN, *other.indices_of(["new"])]].any()
    np.testing.assert_array_equal(seen.targets, held.targets)


def test_the_same_vocabulary_changes_nothing(
    columns: Examples, trended: ItemTrends, vocabulary: Vocabulary
) -> None:
    held = HoldoutSet(columns, columns.is_target, trended, vocabulary)
    assert held.translate_to(vocabulary) is held


def test_what_was_taken_before_is_not_asked_for(
    columns: Examples, trended: ItemTrends, vocabulary: Vocabulary
) -> None:
    held = HoldoutSet(columns, np.ones(len(columns), np.bool_), trended, vocabulary)
    assert 0 < held.targets.sum() < len(columns)


def test_joined_vocabularies_keep_the_first_one_s_indices() -> None:
    first, second = Vocabulary(["a", "b"]), Vocabulary(["b", "c"])
    joined = merge_vocabularies([first, second])
    assert joined.item_ids == ["", "", "a", "b", "c"]
