"""The first model: trained from nothing on a log of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from features import inputs
from features.errors import DataError
from features.rows import Layout, Observed
from features.vocabulary import FIRST_ITEM, Vocabulary
from trainer.batches import Batches
from trainer.data import Log
from trainer.examples import Example, examples, observed_log, replay, shuffled_instants
from trainer.model import Architecture, TemporalModel
from trainer.settings import TrainerSettings
from trainer.train import Outcome, Progress, Report, fit
from trainer.trends import trends

__all__ = ["Progress", "Report", "Trained", "train_first_model"]


@dataclass(frozen=True)
class Trained:
    """A trained model and what it takes to use it: item i of the model is i of the vocabulary."""

    model: TemporalModel
    vocabulary: Vocabulary
    outcome: Outcome


def train_first_model(
    log: Log,
    layout: Layout,
    settings: TrainerSettings,
    report: Report | None = None,
) -> Trained:
    """Train on a log; its newest `validation_share` only tells when to stop.

    Args:
        report: called after every step.

    Raises:
        DataError: nothing can be learned from the log.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    generator = np.random.default_rng(settings.seed)
    events = observed_log(log.events, log.items)
    orders = [
        list(replay(shuffled_instants(events, generator), layout)) for _ in range(settings.orders)
    ]
    vocabulary = seen_items(orders[0], settings.min_item_events)
    if len(vocabulary) == FIRST_ITEM:
        raise DataError(
            f"nothing to learn from: no item has {settings.min_item_events} of the log's "
            f"{len(events)} events"
        )
    learned, held_out = _batches(orders, vocabulary, layout, settings)
    model = TemporalModel(architecture(vocabulary, layout, settings))
    return Trained(model, vocabulary, fit(model, learned, held_out, settings, report))


def seen_items(replayed: Sequence[Example], min_events: int) -> Vocabulary:
    """The items that the log tells something of, most frequent first."""
    counts = Counter(one.event.item_id for one in replayed)
    seen = sorted(item for item, count in counts.items() if count >= min_events)
    return Vocabulary(sorted(seen, key=lambda item: -counts[item]))


def architecture(vocabulary: Vocabulary, layout: Layout, settings: TrainerSettings) -> Architecture:
    """The shape of a model for these items and rows."""
    return Architecture(
        items=len(vocabulary),
        user_features=inputs.user_feature_count(layout),
        trends=inputs.trend_count(layout),
        history=layout.settings.history_length,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
    )


def _batches(
    orders: Sequence[Sequence[Example]],
    vocabulary: Vocabulary,
    layout: Layout,
    settings: TrainerSettings,
) -> tuple[list[Batches], Batches]:
    """The targets to learn from, in each order, and the newest ones, held out."""
    counted: list[Observed] = [one.event for one in orders[0]]
    trended = trends(counted, vocabulary, layout, settings.trend_snapshot_ms)
    columns = [examples(one, vocabulary, layout) for one in orders]
    cut_ms = _newest(counted, settings.validation_share)
    history = layout.settings.history_length
    learned = [
        Batches(one, trended, one.times_ms < cut_ms, history, settings.window) for one in columns
    ]
    newest = columns[0].times_ms >= cut_ms
    return learned, Batches(columns[0], trended, newest, history, settings.window)


def _newest(events: Sequence[Observed], share: float) -> int:
    """The time from which on events are held out; a time after all where there are too few."""
    held_out = round(len(events) * share)
    cut_ms = events[-held_out].time_ms if held_out else events[-1].time_ms + 1
    return cut_ms if cut_ms > events[0].time_ms else events[-1].time_ms + 1
