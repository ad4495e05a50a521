"""Our model under the quality benchmark: trained on the training part, asked for each question.

Q questions, N items of the log, E events, L history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from headwater_client.events import Interaction

from bench.quality.questions import (
    TRAINING,
    VALIDATION,
    Floats,
    Ints,
    Protocol,
    Questions,
    Takes,
    Ties,
)
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM, PADDING
from trainer.datasets import Log
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
    columns: Ints


def train_ours(
    log: Log,
    takes: Takes,
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
        learned_log(log, takes, VALIDATION),
        schema,
        TrainingSetup(settings, text_encoder=text_encoder),
        is_held_out=_asked_in_validation(takes),
    )
    replayed = list(replay_log(observe_log(log.events, log.items), schema))
    replayed.sort(key=lambda one: (one.event.user_id, one.event.time_ms))
    counted = training if takes.protocol is Protocol.LEAVE_ONE_OUT else log
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


def learned_log(log: Log, takes: Takes, part: int = TRAINING) -> Log:
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


def _asked_in_validation(takes: Takes) -> HoldoutRule:
    """Validation tells when to stop, as it does for the peers."""
    asked = takes.part == VALIDATION
    held_out = {
        (takes.user_ids[user], takes.item_ids[item], time_s)
        for user, item, time_s in zip(
            takes.users[asked], takes.items[asked], takes.times_s[asked].tolist(), strict=True
        )
    }
    return lambda event: (event.user_id, event.item_id, event.time_ms // 1000) in held_out


def scores(ours: Ours, asked: Questions) -> Sequence[Floats]:
    """Every item's score for each question, some questions at a time, -inf for unknown items."""
    return [_scores(ours, asked, at) for at in range(0, len(asked), _CHUNK)]


@torch.no_grad()
def _scores(ours: Ours, asked: Questions, at: int) -> Floats:
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


def requests_before(ours: Ours, asked: Questions, chosen: Ints) -> Requests:
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


def _event(ours: Ours, asked: Questions, question: int) -> int:
    """The event that a question stands before."""
    takes, row = asked.takes, asked.firsts[question]
    second = (takes.user_ids[takes.users[row]], int(takes.times_s[row]))
    if asked.ties is Ties.STRICT:
        return ours.first_of[second]
    return ours.event_of[*second, takes.item_ids[takes.items[row]]]
