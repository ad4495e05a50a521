"""Our model under the quality benchmark: trained on the training part, asked for each question.

Q questions, N items of the log, E events, L history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bench.questions import TRAINING, VALIDATION, Floats, Ints, Protocol, Questions, Takes
from features.rows import Layout
from features.vocabulary import FIRST_ITEM, PADDING
from trainer.data import Log
from trainer.evaluate import SNAPSHOT_MS
from trainer.examples import Examples, examples, observed_log, replay
from trainer.first_model import HeldOut, Trained, train_first_model
from trainer.language import LanguageModel
from trainer.model import Requests
from trainer.scoring import scores_at
from trainer.settings import TrainerSettings
from trainer.trends import Trends, trends

_CHUNK = 256


@dataclass(frozen=True)
class Ours:
    """A trained model, and what it takes to ask it about any second of the log.

    Attributes:
        first_of: the first event of each (person, second).
        columns: the vocabulary's index of each item of the log, int64[N].
    """

    trained: Trained
    layout: Layout
    examples: Examples
    trends: Trends
    first_of: dict[tuple[str, int], int]
    columns: Ints


def train_ours(
    log: Log,
    takes: Takes,
    protocol: Protocol,
    layout: Layout,
    settings: TrainerSettings,
    reader: LanguageModel | None,
) -> Ours:
    """Train on the training part of the log.

    Live counters see what happened before a question; where people's last takes are the test
    they see the training part only.
    """
    training = parts_of(log, takes, TRAINING)
    trained = train_first_model(
        parts_of(log, takes, TRAINING, VALIDATION),
        layout,
        settings,
        reader=reader,
        held_out=_asked_in_validation(takes),
    )
    replayed = list(replay(observed_log(log.events, log.items), layout))
    replayed.sort(key=lambda one: (one.event.user_id, one.event.time_ms))
    counted = training if protocol is Protocol.LEAVE_ONE_OUT else log
    first_of: dict[tuple[str, int], int] = {}
    for at, one in enumerate(replayed):
        first_of.setdefault((one.event.user_id, one.event.time_ms // 1000), at)
    return Ours(
        trained,
        layout,
        examples(replayed, trained.vocabulary, layout),
        trends(
            observed_log(counted.events, counted.items), trained.vocabulary, layout, SNAPSHOT_MS
        ),
        first_of,
        trained.vocabulary.indices_of(takes.item_ids),
    )


def parts_of(log: Log, takes: Takes, *parts: int) -> Log:
    """The events of what was taken in some parts, purchases included."""
    wanted = np.isin(takes.part, parts)
    known = {
        (takes.user_ids[user], takes.item_ids[item])
        for user, item in zip(takes.users[wanted], takes.items[wanted], strict=True)
    }
    return replace(log, events=[e for e in log.events if (e.user_id, e.item_id) in known])


def _asked_in_validation(takes: Takes) -> HeldOut:
    """Validation tells when to stop, as it does for the peers."""
    asked = takes.part == VALIDATION
    held = {
        (takes.user_ids[user], takes.item_ids[item])
        for user, item in zip(takes.users[asked], takes.items[asked], strict=True)
    }
    return lambda event: (event.user_id, event.item_id) in held


def scores(ours: Ours, asked: Questions) -> Sequence[Floats]:
    """Every item's score for each question, some questions at a time, -inf for unknown items."""
    return [_scores(ours, asked, at) for at in range(0, len(asked), _CHUNK)]


@torch.no_grad()
def _scores(ours: Ours, asked: Questions, at: int) -> Floats:
    model = ours.trained.model.eval()
    requests = _requests(ours, asked, range(at, min(at + _CHUNK, len(asked))))
    live = ours.trends.values[ours.trends.at(requests.request_times_ms[:, 0].numpy())]
    places = torch.arange(len(requests.items))
    found = scores_at(model, requests, places, torch.from_numpy(live).float()).double().numpy()
    known = (ours.columns >= FIRST_ITEM) & model.recommendable.numpy()[ours.columns]
    return np.where(known, found[:, ours.columns], -np.inf)


def _requests(ours: Ours, asked: Questions, chosen: Sequence[int]) -> Requests:
    """Each question's events strictly before it, right-aligned."""
    takes, known = asked.takes, ours.examples
    rows = [asked.firsts[question] for question in chosen]
    firsts = np.array(
        [ours.first_of[takes.user_ids[takes.users[row]], int(takes.times_s[row])] for row in rows]
    )
    starts = known.starts[firsts]
    length = int(np.clip(firsts - starts, 1, ours.layout.settings.history_length).max())
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
