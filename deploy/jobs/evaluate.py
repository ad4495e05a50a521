"""Judges a version on a log, without a server: for `headwater evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from headwater_client.errors import DataError

from deploy.settings import Settings
from features.vocabulary import UNKNOWN, Vocabulary
from trainer.datasets import Log
from trainer.evaluation import Evaluation, evaluate
from trainer.registry.checkpoint import load, trained_schema

# Of a log of which nobody knows how much the version was trained on.
DEFAULT_HISTORY = 0.8


@dataclass(frozen=True)
class Evaluated:
    """A version's evaluation on events from `since_ms` on.

    `trained_on` of the judged events were in the version's training; None where nobody knows.
    """

    version: Path
    history_events: int
    judged_events: int
    trained_on: int | None
    since_ms: int
    evaluation: Evaluation


def evaluate_version(
    settings: Settings, folder: Path, log: Log, share: float | None, right_after: bool = False
) -> Evaluated:
    """Predict each event of the newest part of a log from what lies before it.

    Args:
        share: the first part of the log, which is only history; without it, what the version was
            trained on.
        right_after: ask right after the person's event before, not at the time of the event.

    Raises:
        DataError: not a version's folder, none of its items in the log, or nothing to judge.
    """
    torch.set_num_threads(settings.trainer.threads)
    trained = load(folder)
    _check_items(folder, trained.vocabulary, log)
    history, judged = _split(folder, log, share, trained.until_ms)
    schema = trained_schema(folder, settings.features)
    found = evaluate(trained, history, judged, schema, right_after)
    seen = None
    if trained.until_ms is not None:
        seen = len(judged.split_after(trained.until_ms)[0].events)
    since_ms = judged.events[0].timestamp
    return Evaluated(folder, len(history.events), len(judged.events), seen, since_ms, found)


def _check_items(folder: Path, vocabulary: Vocabulary, log: Log) -> None:
    names = {event.item_id for event in log.events} | {item.item_id for item in log.items}
    if (vocabulary.indices_of(sorted(names)) == UNKNOWN).all():
        raise DataError(
            f"{folder}: knows none of the log's {len(names)} items: name a log of the items that "
            "it was trained on with --data"
        )


def _split(folder: Path, log: Log, share: float | None, until_ms: int | None) -> tuple[Log, Log]:
    if share is None and until_ms is not None:
        history, judged = log.split_after(until_ms)
        remedy = f"{folder} was trained on all of it: name a longer one with --data, or --share"
    else:
        history, judged = log.split(DEFAULT_HISTORY if share is None else share)
        remedy = "choose a smaller --share"
    if not judged.events:
        raise DataError(f"nothing of the log is left to judge: {remedy}")
    return history, judged
