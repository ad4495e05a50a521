"""What an item's vector is worth by itself: a person is the mean of what they took last.

N items, W width of the vectors, Q questions, q questions of a chunk, M targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bench.quality.answers import answers_by_score
from bench.quality.figures import Row, figures
from bench.quality.questions import TRAINING, Bools, Floats, Questions, Takes

NEWEST = 10
# A take of neither training nor any question.
UNSEEN = -1
_CHUNK = 512


def without(takes: Takes, items: Bools) -> Takes:
    """The takes, those of some items (bool[N]) not part of the training."""
    unseen = items[takes.items] & (takes.part == TRAINING)
    return replace(takes, part=np.where(unseen, UNSEEN, takes.part))


def neighbour_figures(vectors: Floats, asked: Questions) -> Row:
    """All items ranked by cosine with the mean of the newest ten, vectors float[N, W]."""
    unit = normalised(vectors)
    answers = answers_by_score(asked, _scores(unit @ unit.T, asked))
    counts = asked.takes.training_counts()[asked.takes.items[asked.targets()[1]]]
    return figures(asked, answers) | {
        "mean_rank": float(answers.ranks.mean() / len(vectors)),
        "mean_rank_new_items": float(answers.ranks[counts == 0].mean() / len(vectors)),
    }


def normalised(vectors: Floats) -> Floats:
    """Rows of length 1 around their mean; rows of zeros, of which nothing is known, stay zeros.

    Texts of a language model all point one way: what tells them apart is the rest.
    """
    known: Bools = np.asarray(vectors.any(1))
    centred = np.where(known[:, None], vectors - vectors[known].mean(0), 0.0)
    found: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return found


def _scores(cosines: Floats, asked: Questions) -> Iterator[Floats]:
    for at in range(0, len(asked), _CHUNK):
        chosen = range(at, min(at + _CHUNK, len(asked)))
        scores = np.zeros((len(chosen), len(cosines)))
        for row, question in enumerate(chosen):
            newest = asked.history(question)[-NEWEST:]
            if len(newest):
                scores[row] = cosines[newest].mean(0)
        yield scores
