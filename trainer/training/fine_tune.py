"""The slow loop's step: a live version learns from a window and becomes the next one.

E events, N items.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from features.arrays import Int64Array
from features.vocabulary import FIRST_ITEM, Vocabulary
from trainer.examples import BoolArray, DataSplits, EventHistory, Examples, previous_times_ms
from trainer.examples.batches import Batches
from trainer.examples.cooccurrence import CooccurrenceCounter
from trainer.examples.splits import sample_runs
from trainer.network import Model, TemporalModel, TrainedModel, TrainingOutcome, select_device
from trainer.settings import FineTuneScope, FineTuneSettings, TrainerSettings
from trainer.text import TextEncoder
from trainer.training.ensembles import fit_ensemble
from trainer.training.expand import expand_vocabulary, next_vocabulary
from trainer.training.fit import Report, held_out_ndcg
from trainer.training.from_scratch import count_cooccurrence, set_cooccurrence

# Weights by the beginning of their names.
_ITEMS = ("items.", "item_bias")
_HEADS = (
    *_ITEMS,
    "text.",
    "text_bias.",
    "user.",
    "norm.",
    "state.",
    "trend_weights.",
    "near",
    "alike",
)
_PARTS = {
    FineTuneScope.NOTHING: (),
    FineTuneScope.ITEMS: _ITEMS,
    FineTuneScope.HEADS: _HEADS,
    FineTuneScope.ALL: ("",),
}


def fine_tune(
    live: TrainedModel,
    history: EventHistory,
    slices: DataSplits,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
    text_encoder: TextEncoder | None = None,
    report: Report | None = None,
) -> TrainedModel:
    """The next version: new items, all that is counted anew, and weights that learned the window.

    The live version stays as it is. What it was not yet told of earlier windows, because that told
    when to stop or was kept for the gate, is new in this one.

    Args:
        history: all events up to the end of the window, and the catalogue.
        slices: of that history; `trainer.examples.splits.split_by_time`.
        text_encoder: the untuned language model of the settings.
        report: called after every step.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
        SettingsError: the device or precision of the settings is not to be had.
    """
    started = time.monotonic()
    select_device(settings)  # What cannot be had is told before anything is read.
    torch.set_num_threads(tuning.threads)
    torch.manual_seed(settings.seed)
    vocabulary = next_vocabulary(live, history, settings.min_item_events)
    model = expand_vocabulary(
        live,
        vocabulary,
        history,
        settings,
        live.language.text_encoder if live.language else text_encoder,
    )
    columns = history.examples(vocabulary)
    known = columns.times_ms < slices.stop_ms
    counts = count_cooccurrence(columns, known, len(vocabulary), settings)
    counted = counts.count_all() if counts else None
    for member in model.members:
        mark_learned(member, columns.items[known], settings.min_item_events)
        if counted:
            set_cooccurrence(member, counted)
    chosen = (
        _select_events(columns, slices, settings, tuning) & model.learned.numpy()[columns.items]
    )
    learned = build_batches(chosen, columns, history, vocabulary, settings)
    stopping = build_batches(
        slices.stopping_mask(columns.times_ms), columns, history, vocabulary, settings
    )
    model, outcome = _learn(model, learned, stopping, counts, settings, tuning, report)
    names = vocabulary.item_ids[FIRST_ITEM:]
    return TrainedModel(
        model.eval(),
        Vocabulary(names, model.learned[FIRST_ITEM:].tolist()),
        replace(outcome, seconds=time.monotonic() - started),
        int(columns.times_ms[known].max(initial=slices.since_ms)),
        live.language,
    )


def mark_learned(model: TemporalModel, items: Int64Array, min_events: int) -> None:
    """Items with so many events have an identity of their own from now on."""
    counts = torch.bincount(torch.from_numpy(items), minlength=model.architecture.items)
    found = counts >= min_events
    found[:FIRST_ITEM] = False
    model.learned |= found
    model.recommendable |= found


def _select_events(
    columns: Examples,
    slices: DataSplits,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
) -> BoolArray:
    """What is learned: the new events, and a sample of earlier ones."""
    # Another draw for every window.
    generator = np.random.default_rng([settings.seed, slices.since_ms])
    new = columns.is_target & slices.learned_mask(columns.times_ms)
    earlier = columns.is_target & (columns.times_ms <= slices.since_ms)
    return new | sample_runs(earlier, columns, round(tuning.replay * new.sum()), generator)


def build_batches(
    chosen: BoolArray,
    columns: Examples,
    history: EventHistory,
    vocabulary: Vocabulary,
    settings: TrainerSettings,
) -> Batches:
    """Batches of the chosen events, with the trends that they need: bool[E]."""
    # Some requests are made right after what happened before.
    asked_ms = np.concatenate([columns.times_ms[chosen], previous_times_ms(columns)[chosen]])
    trended = history.trends(vocabulary, asked_ms, settings.trend_snapshot_ms)
    length = history.schema.settings.history_length
    return Batches(columns, trended, chosen, length, settings.max_targets_per_sequence)


def _learn(
    model: Model,
    learned: Batches,
    stopping: Batches,
    counts: CooccurrenceCounter | None,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
    report: Report | None,
) -> tuple[Model, TrainingOutcome]:
    opened = [_unfreeze(member, tuning.part) for member in model.members]
    if not (all(opened) and learned.targets.any()):
        return model, TrainingOutcome(0, held_out_ndcg(model, stopping, settings.batch_size), 0.0)
    of_window = {"epochs", "learning_rate", "batch_size", "warmup_ratio"}
    settings = settings.model_copy(update=tuning.model_dump(include=of_window))
    begin = model.members.__getitem__
    return fit_ensemble(begin, learned, stopping, settings, counts, report, tuning.live_fraction)


def _unfreeze(model: TemporalModel, part: FineTuneScope) -> bool:
    """Let a part of the weights learn, and no other; whether there is any."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(_PARTS[part]))
    return any(weight.requires_grad for weight in model.parameters())
