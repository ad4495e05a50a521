"""Events that are kept from training, to judge versions by.

E events, N items, S snapshots, T trends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.arrays import Int64Array
from features.vocabulary import FIRST_ITEM, PADDING, UNKNOWN, Vocabulary
from trainer.evaluation.evaluate import SNAPSHOT_MS, TARGETS_PER_SEQUENCE
from trainer.examples import BoolArray, EventHistory, Examples, ItemTrends
from trainer.examples.batches import Batches


@dataclass(frozen=True)
class HoldoutSet:
    """Held-out events, and all that happened before them.

    Attributes:
        columns: also of the events before, which are the histories; items by `vocabulary`.
        chosen: bool[E], which events are held out.
        trended: by `vocabulary`.
        vocabulary: an item that it does not have counts as missed, so give it those of both
            versions (`merge_vocabularies`).
    """

    columns: Examples
    chosen: BoolArray
    trended: ItemTrends
    vocabulary: Vocabulary

    @property
    def targets(self) -> BoolArray:
        """The events to predict, bool[E]: what was taken before is not recommended again."""
        return self.columns.is_target & self.chosen

    def translate_to(self, vocabulary: Vocabulary) -> HoldoutSet:
        """The same events as a version with this vocabulary sees them."""
        if vocabulary is self.vocabulary:
            return self
        places = _places(self.vocabulary, vocabulary)
        known = places >= FIRST_ITEM
        values = np.zeros((*self.trended.values.shape[:2], len(vocabulary)), np.float16)
        values[:, :, places[known]] = self.trended.values[:, :, known]
        return HoldoutSet(
            replace(self.columns, items=places[self.columns.items]),
            self.chosen,
            replace(self.trended, values=values),
            vocabulary,
        )

    def batches(self, history: int) -> Batches:
        """The held-out events as requests of histories up to this length."""
        return Batches(self.columns, self.trended, self.chosen, history, TARGETS_PER_SEQUENCE)


def merge_vocabularies(vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    """One vocabulary with the items of all; those of the first keep their indices.

    >>> merge_vocabularies([Vocabulary(["a", "b"]), Vocabulary(["c", "b"])]).item_ids[FIRST_ITEM:]
    ['a', 'b', 'c']
    """
    names = (name for one in vocabularies for name in one.item_ids[FIRST_ITEM:])
    return Vocabulary(list(dict.fromkeys(names)))


def _places(of: Vocabulary, within: Vocabulary) -> Int64Array:
    """Where the items of one vocabulary are in another, int64[N]."""
    own = within.indices_of(of.item_ids[FIRST_ITEM:])
    return np.concatenate([np.array([PADDING, UNKNOWN], np.int64), own])


def hold_out(
    history: EventHistory, since_ms: int, vocabularies: Sequence[Vocabulary]
) -> HoldoutSet:
    """Events from a time on for the gate to ask versions with these vocabularies about."""
    vocabulary = merge_vocabularies(vocabularies)
    columns = history.examples(vocabulary)
    chosen = columns.times_ms >= since_ms
    trended = history.trends(vocabulary, columns.times_ms[chosen], SNAPSHOT_MS)
    return HoldoutSet(columns, chosen, trended, vocabulary)
