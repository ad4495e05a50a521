"""Our model under the quality benchmark: trained on the training part, asked for each question.

Q questions, N items of the log, E events, L history.

Methods that count: what a learned model has to beat. N items, Q questions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from headwater_client.events import Interaction

from bench.quality import questions
from features.schema import FIRST_ITEM, PADDING, FeatureSchema
from trainer.datasets import Log
from trainer.evaluation import DecayedPopularity
from trainer.evaluation.evaluate import SNAPSHOT_MS
from trainer.examples import (
    Examples,
    ItemTrends,
    build_examples,
    compute_trends,
    observe_log,
    replay_log,
)
from trainer.examples.batches import Requests, ScoredRequests
from trainer.examples.cooccurrence import NEARBY_EVENTS, NEARBY_MS
from trainer.network import TrainedModel, score_requests
from trainer.settings import TrainerSettings
from trainer.text import TextEncoder
from trainer.training import HoldoutRule, TrainingSetup, train_first_model

_CHUNK = 256


@dataclass(frozen=True)
class Ours:
    """A trained model, and what it takes to ask it about any second of the log.

    Attributes:
        first_of: the first event of each (person, second).
        event_of: the first event of each (person, second, item).
        columns: the vocabulary's index of each item of the log, int64[N].
    """

    trained: TrainedModel
    schema: FeatureSchema
    examples: Examples
    trends: ItemTrends
    first_of: dict[tuple[str, int], int]
    event_of: dict[tuple[str, int, str], int]
    columns: questions.Ints


def train_ours(
    log: Log,
    takes: questions.Takes,
    schema: FeatureSchema,
    settings: TrainerSettings,
    text_encoder: TextEncoder | None,
) -> Ours:
    """Train on the training part of the log.

    Live counters see what happened before a question; where people's last takes are the test
    they see the training part only.
    """
    training = learned_log(log, takes)
    trained = train_first_model(
        learned_log(log, takes, questions.VALIDATION),
        schema,
        TrainingSetup(settings, text_encoder=text_encoder),
        is_held_out=_asked_in_validation(takes),
    )
    replayed = list(replay_log(observe_log(log.events, log.items), schema))
    replayed.sort(key=lambda one: (one.event.user_id, one.event.time_ms))
    counted = training if takes.protocol is questions.Protocol.LEAVE_ONE_OUT else log
    first_of: dict[tuple[str, int], int] = {}
    event_of: dict[tuple[str, int, str], int] = {}
    for at, one in enumerate(replayed):
        second = (one.event.user_id, one.event.time_ms // 1000)
        first_of.setdefault(second, at)
        event_of.setdefault((*second, one.event.item_id), at)
    return Ours(
        trained,
        schema,
        build_examples(replayed, trained.vocabulary, schema),
        compute_trends(
            observe_log(counted.events, counted.items), trained.vocabulary, schema, SNAPSHOT_MS
        ),
        first_of,
        event_of,
        trained.vocabulary.indices_of(takes.item_ids),
    )


def first_member(ours: Ours) -> Ours:
    """The first of the models whose scores are averaged, alone."""
    alone = ours.trained.model.members[0]
    return replace(ours, trained=replace(ours.trained, model=alone))


def learned_log(log: Log, takes: questions.Takes, part: int = questions.TRAINING) -> Log:
    """The events up to each person's last take in this part, without what is asked for later.

    A purchase counts with its click, and an item that was taken before may come again.
    """
    last_s: dict[str, int] = {}
    left_out = set()
    for user, item, time_s, of in zip(
        takes.users, takes.items, takes.times_s.tolist(), takes.part, strict=True
    ):
        if of <= part:
            last_s[takes.user_ids[user]] = time_s
        else:
            left_out.add((takes.user_ids[user], takes.item_ids[item], time_s))

    def is_learned(event: Interaction) -> bool:
        user, time_s = event.user_id, event.timestamp // 1000
        known = user in last_s and time_s <= last_s[user]
        return known and (user, event.item_id, time_s) not in left_out

    return replace(log, events=[event for event in log.events if is_learned(event)])


def _asked_in_validation(takes: questions.Takes) -> HoldoutRule:
    """Validation tells when to stop, as it does for the peers."""
    asked = takes.part == questions.VALIDATION
    held_out = {
        (takes.user_ids[user], takes.item_ids[item], time_s)
        for user, item, time_s in zip(
            takes.users[asked], takes.items[asked], takes.times_s[asked].tolist(), strict=True
        )
    }
    return lambda event: (event.user_id, event.item_id, event.time_ms // 1000) in held_out


def scores(ours: Ours, asked: questions.Questions) -> Sequence[questions.Floats]:
    """Every item's score for each question, some questions at a time, -inf for unknown items."""
    return [_scores(ours, asked, at) for at in range(0, len(asked), _CHUNK)]


@torch.no_grad()
def _scores(ours: Ours, asked: questions.Questions, at: int) -> questions.Floats:
    chosen = np.arange(at, min(at + _CHUNK, len(asked)))
    requests, model = requests_before(ours, asked, chosen), ours.trained.model.eval()
    live = ours.trends.values[ours.trends.snapshot_indices(requests.request_times_ms[:, 0].numpy())]
    places = torch.arange(len(requests.items))
    found = (
        score_requests(model, ScoredRequests(requests, places, torch.from_numpy(live).float()))
        .double()
        .numpy()
    )
    known = (ours.columns >= FIRST_ITEM) & model.recommendable.numpy()[ours.columns]
    return np.where(known, found[:, ours.columns], -np.inf)


def requests_before(ours: Ours, asked: questions.Questions, chosen: questions.Ints) -> Requests:
    """The events before each chosen question, right-aligned."""
    known = ours.examples
    firsts = np.array([_event(ours, asked, question) for question in chosen])
    starts = known.starts[firsts]
    length = int(np.clip(firsts - starts, 1, ours.schema.settings.history_length).max())
    columns = firsts[:, None] + np.arange(-length, 0)
    there = columns >= starts[:, None]
    columns = np.where(there, columns, 0)
    return Requests(
        items=torch.from_numpy(np.where(there, known.items[columns], PADDING)),
        types=torch.from_numpy(np.where(there, known.types[columns], 0)),
        times_ms=torch.from_numpy(np.where(there, known.times_ms[columns], 0)),
        newest=torch.full((len(firsts), 1), length - 1),
        request_times_ms=torch.from_numpy(known.times_ms[firsts])[:, None],
        user_features=torch.from_numpy(known.features[firsts])[:, None],
    )


def _event(ours: Ours, asked: questions.Questions, question: int) -> int:
    """The event that a question stands before."""
    takes, row = asked.takes, asked.firsts[question]
    second = (takes.user_ids[takes.users[row]], int(takes.times_s[row]))
    if asked.ties is questions.Ties.STRICT:
        return ours.first_of[second]
    return ours.event_of[*second, takes.item_ids[takes.items[row]]]


# Scores of the questions in order, some at a time: float[q, N].
Chunks = Iterator[questions.Floats]
Method = Callable[[questions.Questions], Chunks]

DAY_S = 86_400
HISTORY = 64
_PEOPLE_AT_ONCE = 512
# Of the most popular item, beside 1 for what the person has just taken.
_BEHIND = 1e-6


def methods(takes: questions.Takes, live: bool) -> dict[str, list[Method]]:
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


def ease(people: questions.Floats, ridge: float) -> questions.Floats:
    """Item weights, float[N, N]: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data",
    WWW 2019.
    """
    inverse = np.linalg.inv(people.T @ people + ridge * np.eye(people.shape[1]))
    weights: questions.Floats = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def _people(takes: questions.Takes) -> questions.Floats:
    """Who took what in training: float[people, N]."""
    found = np.zeros((len(takes.user_ids), len(takes.item_ids)))
    learned = takes.part == questions.TRAINING
    found[takes.users[learned], takes.items[learned]] = 1
    return found


def _count_nearby(takes: questions.Takes) -> questions.Floats:
    """How often two items are taken within ten takes and an hour, float[N, N]."""
    counts = np.zeros((len(takes.item_ids),) * 2)
    learned = np.flatnonzero(takes.part == questions.TRAINING)
    users, items, times = takes.users[learned], takes.items[learned], takes.times_s[learned]
    for distance in range(1, NEARBY_EVENTS + 1):
        near = (users[distance:] == users[:-distance]) & (
            times[distance:] - times[:-distance] < NEARBY_MS // 1000
        )
        np.add.at(counts, (items[distance:][near], items[:-distance][near]), 1)
    return counts + counts.T


def _cosine(together: questions.Floats, counts: questions.Floats) -> questions.Floats:
    scale = 1 / np.sqrt(counts + 3)
    cosine: questions.Floats = together * scale[:, None] * scale
    np.fill_diagonal(cosine, 0)
    return cosine


def _constant(values: questions.Floats, asked: questions.Questions) -> Chunks:
    for at in range(0, len(asked), _PEOPLE_AT_ONCE):
        yield np.tile(values, (len(asked.firsts[at : at + _PEOPLE_AT_ONCE]), 1))


def _score_by_items(weights: questions.Floats, fade: float, asked: questions.Questions) -> Chunks:
    """The weights of the newest items of the history, each older one `fade` times as much."""
    for at in range(0, len(asked), _PEOPLE_AT_ONCE):
        size = len(asked.firsts[at : at + _PEOPLE_AT_ONCE])
        read = np.zeros((size, len(weights)))
        for row in range(size):
            newest = asked.history(at + row)[::-1][:HISTORY]
            np.add.at(read[row], newest, fade ** np.arange(len(newest)))
        yield read @ weights


def _own(counts: questions.Floats, half_life_s: float, asked: questions.Questions) -> Chunks:
    """What the person took, fading; behind it the rest by popularity."""
    takes, rest = asked.takes, _BEHIND * counts / counts.max()
    for at in range(0, len(asked), _PEOPLE_AT_ONCE):
        scores = np.tile(rest, (len(asked.firsts[at : at + _PEOPLE_AT_ONCE]), 1))
        for row, scored in enumerate(scores, start=at):
            history = slice(asked.starts[row], asked.firsts[row])
            left = 2.0 ** ((takes.times_s[history] - asked.times_s[row]) / half_life_s)
            np.add.at(scored, takes.items[history], left)
        yield scores


def _decayed_popularity(
    takes: questions.Takes, live: bool, half_life_s: float, asked: questions.Questions
) -> Chunks:
    """Popularity that fades, of what was taken strictly before each question."""
    scores = np.zeros((len(asked), len(takes.item_ids)))
    known = np.flatnonzero((takes.part == questions.TRAINING) | live)
    known = known[np.argsort(takes.times_s[known], kind="stable")]
    popularity, done = DecayedPopularity(len(takes.item_ids), half_life_s), 0
    for question in np.argsort(asked.times_s, kind="stable"):
        time_s = int(asked.times_s[question])
        end = int(np.searchsorted(takes.times_s[known], time_s, side="left"))
        new: questions.Ints = known[done:end]
        popularity.add(takes.items[new], takes.times_s[new])
        scores[question], done = popularity.scores(time_s), end
    yield scores
