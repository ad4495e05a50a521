"""One step ahead on later events: what would have been recommended, and what people then took.

M targets, N items, T trends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.rows import Layout
from features.settings import DAY_MS
from trainer.batches import Batch, Batches
from trainer.data import Log
from trainer.examples import examples, observed_log, replay
from trainer.first_model import Trained
from trainer.model import LOWEST
from trainer.settings import TrainerSettings
from trainer.train import TOP, batch_scores, ndcg, target_ranks
from trainer.trends import trends

POPULARITY_HALF_LIFE_MS = 7 * DAY_MS
SNAPSHOT_MS = 60_000

Scorer = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Figures:
    """Of so many events of an item new to its person: the share among the best 10, the gain."""

    events: int
    hit_rate: float
    ndcg: float


@dataclass(frozen=True)
class Evaluation:
    """The model and decayed popularity (7 days) on the same events, taken items left out."""

    model: Figures
    popularity: Figures


def evaluate(
    trained: Trained,
    earlier: Log,
    later: Log,
    layout: Layout,
    settings: TrainerSettings,
    right_after: bool = False,
) -> Evaluation:
    """Predict each later event from the true history before it.

    An item that the model does not know counts as missed, for both.

    Args:
        earlier: what happened before `later`.
        right_after: ask right after the person's event before, as the stream does, and so not
            before a first event; else at the time of the event itself.
    """
    events = observed_log([*earlier.events, *later.events], later.items)
    since_ms = later.events[0].timestamp
    replayed = list(replay(events, layout))
    columns = examples(replayed, trained.vocabulary, layout)
    chosen = columns.times_ms >= since_ms
    if right_after:
        chosen &= columns.starts != np.arange(len(columns))
    counted = [one.event for one in replayed]
    # A request right after an earlier event needs the trends of that time.
    first_ms = 0 if right_after else since_ms
    trended = trends(counted, trained.vocabulary, layout, SNAPSHOT_MS, first_ms)
    batches = Batches(columns, trended, chosen, layout.settings.history_length, settings.window)
    wanted = int((columns.wanted & chosen).sum())
    scorers: tuple[Scorer, Scorer] = (
        lambda batch: batch_scores(trained.model, batch),
        lambda batch: _popularity_scores(batch, layout),
    )
    model, popularity = _figures(batches, scorers, wanted, float(right_after))
    return Evaluation(model, popularity)


@torch.no_grad()
def _figures(
    batches: Batches, scorers: tuple[Scorer, ...], wanted: int, right_after: float
) -> list[Figures]:
    ranks: list[list[Tensor]] = [[] for _ in scorers]
    for batch in batches.epoch(16, np.random.default_rng(0), immediate_share=right_after):
        for found, scorer in zip(ranks, scorers, strict=True):
            found.append(target_ranks(scorer(batch), batch.targets))
    return [_summary(torch.cat(found or [torch.empty(0)]), wanted) for found in ranks]


def _summary(ranks: Tensor, wanted: int) -> Figures:
    count = max(1, wanted)
    hits = (ranks < TOP).sum().item()
    return Figures(wanted, hits / count, ndcg(ranks).sum().item() / count)


def _popularity_scores(batch: Batch, layout: Layout) -> Tensor:
    """Decayed popularity, forbidden items lowest: float[M, N]."""
    half_lives = np.asarray(layout.item_half_lives[:-1])
    nearest = int(np.abs(np.log(half_lives / POPULARITY_HALF_LIFE_MS)).argmin())
    return batch.trends[:, nearest].masked_fill(batch.forbidden, LOWEST)
