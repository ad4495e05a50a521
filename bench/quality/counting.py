"""Methods that count: what a learned model has to beat. N items, Q questions."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bench.quality.questions import TRAINING, Floats, Ints, Questions, Takes
from trainer.evaluation import DecayedPopularity
from trainer.examples.cooccurrence import NEARBY_EVENTS, NEARBY_MS

# Scores of the questions in order, some at a time: float[q, N].
Chunks = Iterator[Floats]
Method = Callable[[Questions], Chunks]

DAY_S = 86_400
HISTORY = 64
_CHUNK = 512
# Of the most popular item, beside 1 for what the person has just taken.
_BEHIND = 1e-6


def methods(takes: Takes, live: bool) -> dict[str, list[Method]]:
    """Each method's variants, of which validation chooses.

    Args:
        live: what is taken after training counts for decayed popularity once it lies before the
            question.
    """
    counts = takes.training_counts().astype(np.float64)
    people = _people(takes)
    nearby, cosine = _cosine(_count_nearby(takes), counts), _cosine(people.T @ people, counts)
    fades = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
    found: dict[str, list[Method]] = {
        "popularity": [partial(_constant, counts)],
        "decayed popularity": [
            partial(_decayed_popularity, takes, live, days * DAY_S) for days in (1.0, 7.0, 30.0)
        ],
        "co-occurrence": [partial(_score_by_items, nearby, fade) for fade in fades],
        "item-kNN": [partial(_score_by_items, cosine, fade) for fade in fades],
        "EASE": [
            partial(_score_by_items, ease(people, ridge), 1.0) for ridge in (100.0, 300.0, 1000.0)
        ],
    }
    if takes.repeats:
        half_lives = (1.0, 7.0, 30.0, 365.0)
        found["own items"] = [partial(_own, counts, days * DAY_S) for days in half_lives]
    return found


def ease(people: Floats, ridge: float) -> Floats:
    """Item weights, float[N, N]: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
    WWW 2019.
    """
    inverse = np.linalg.inv(people.T @ people + ridge * np.eye(people.shape[1]))
    weights: Floats = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def _people(takes: Takes) -> Floats:
    """Who took what in training: float[people, N]."""
    found = np.zeros((len(takes.user_ids), len(takes.item_ids)))
    learned = takes.part == TRAINING
    found[takes.users[learned], takes.items[learned]] = 1
    return found


def _count_nearby(takes: Takes) -> Floats:
    """How often two items are taken within ten takes and an hour, float[N, N]."""
    counts = np.zeros((len(takes.item_ids),) * 2)
    learned = np.flatnonzero(takes.part == TRAINING)
    users, items, times = takes.users[learned], takes.items[learned], takes.times_s[learned]
    for distance in range(1, NEARBY_EVENTS + 1):
        near = (users[distance:] == users[:-distance]) & (
            times[distance:] - times[:-distance] < NEARBY_MS // 1000
        )
        np.add.at(counts, (items[distance:][near], items[:-distance][near]), 1)
    return counts + counts.T


def _cosine(together: Floats, counts: Floats) -> Floats:
    scale = 1 / np.sqrt(counts + 3)
    cosine: Floats = together * scale[:, None] * scale
    np.fill_diagonal(cosine, 0)
    return cosine


def _constant(values: Floats, asked: Questions) -> Chunks:
    for at in range(0, len(asked), _CHUNK):
        yield np.tile(values, (len(asked.firsts[at : at + _CHUNK]), 1))


def _score_by_items(weights: Floats, fade: float, asked: Questions) -> Chunks:
    """The weights of the newest items of the history, each older one `fade` times as much."""
    for at in range(0, len(asked), _CHUNK):
        size = len(asked.firsts[at : at + _CHUNK])
        read = np.zeros((size, len(weights)))
        for row in range(size):
            newest = asked.history(at + row)[::-1][:HISTORY]
            np.add.at(read[row], newest, fade ** np.arange(len(newest)))
        yield read @ weights


def _own(counts: Floats, half_life_s: float, asked: Questions) -> Chunks:
    """What the person took, fading; behind it the rest by popularity."""
    takes, rest = asked.takes, _BEHIND * counts / counts.max()
    for at in range(0, len(asked), _CHUNK):
        scores = np.tile(rest, (len(asked.firsts[at : at + _CHUNK]), 1))
        for row, scored in enumerate(scores, start=at):
            history = slice(asked.starts[row], asked.firsts[row])
            left = 2.0 ** ((takes.times_s[history] - asked.times_s[row]) / half_life_s)
            np.add.at(scored, takes.items[history], left)
        yield scores


def _decayed_popularity(takes: Takes, live: bool, half_life_s: float, asked: Questions) -> Chunks:
    """Popularity that fades, of what was taken strictly before each question."""
    scores = np.zeros((len(asked), len(takes.item_ids)))
    known = np.flatnonzero((takes.part == TRAINING) | live)
    known = known[np.argsort(takes.times_s[known], kind="stable")]
    popularity, done = DecayedPopularity(len(takes.item_ids), half_life_s), 0
    for question in np.argsort(asked.times_s, kind="stable"):
        time_s = int(asked.times_s[question])
        end = int(np.searchsorted(takes.times_s[known], time_s, side="left"))
        new: Ints = known[done:end]
        popularity.add(takes.items[new], takes.times_s[new])
        scores[question], done = popularity.scores(time_s), end
    yield scores
