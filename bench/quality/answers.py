"""What a method answers to all questions: the targets' ranks, and what it would have shown.

Q questions, M targets, N items, K = the length of a list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bench.quality.questions import Bools, Floats, Ints, Questions, ranks_by_score, ranks_in_lists
from trainer.metrics import TOP


@dataclass(frozen=True)
class Answers:
    """Ranks of the targets, float[M], and the items in anyone's best 10, bool[N]."""

    ranks: Floats
    shown: Bools


def answers_by_score(asked: Questions, chunks: Iterable[Floats]) -> Answers:
    """Answers of a method that scores every item: float[q, N] of some questions at a time."""
    ranks, at = [], 0
    shown = np.zeros(len(asked.takes.item_ids), bool)
    for chunk in chunks:
        ranks.append(ranks_by_score(asked, at, chunk))
        shown[_best(asked, at, chunk)] = True
        at += len(chunk)
    return Answers(np.concatenate(ranks), shown)


def _best(asked: Questions, at: int, scores: Floats) -> Ints:
    """The items in the best 10 of some questions."""
    open_to = scores.copy()
    for row in range(len(scores)):
        open_to[row, asked.closed(at + row)] = -np.inf
    count = min(TOP, open_to.shape[1])
    best = np.argpartition(-open_to, count - 1, axis=1)[:, :count]
    has_a_say = np.take_along_axis(open_to, best, axis=1) > -np.inf
    return best[has_a_say]


def answers_in_lists(asked: Questions, top: Ints) -> Answers:
    """Answers of a method that gives lists, best first, -1 where there are no more: int64[Q, K]."""
    shown = np.zeros(len(asked.takes.item_ids), bool)
    for question, listed in enumerate(top):
        still_open = listed[(listed >= 0) & ~np.isin(listed, asked.closed(question))]
        shown[still_open[:TOP]] = True
    return Answers(ranks_in_lists(asked, top), shown)
