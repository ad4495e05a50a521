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
from trainer.examples.splits import sample_runs
from trainer.network import Model, TemporalModel, TrainedModel, TrainingOutcome, select_device
from trainer.progress import ProgressReporter
from trainer.settings import FineTuneScope, TrainerSettings
from trainer.training.ensembles import fit_ensemble
from trainer.training.expand import expand_vocabulary, next_vocabulary
from trainer.training.fit import TrainingInputs, held_out_ndcg
from trainer.training.from_scratch import (
    TrainingSetup,
    count_cooccurrence,
    count_tables,
    set_cooccurrence,
)

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
    splits: DataSplits,
    setup: TrainingSetup,
    progress: ProgressReporter | None = None,
) -> TrainedModel:
    """The next version: new items, all that is counted anew, and weights that learned the window.

    The live version stays as it is. What it was not yet told of earlier windows, because that told
    when to stop or was kept for the gate, is new in this one.

    Args:
        history: all events up to the end of the window, and the catalogue.
        splits: of that history; `trainer.examples.splits.split_by_time`.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
        SettingsError: the device or precision of the settings is not to be had.
    """
    started = time.monotonic()
    settings, progress = setup.settings, progress or ProgressReporter()
    # Fail on an unavailable device before reading the data.
    select_device(settings)
    torch.set_num_threads(setup.fine_tuning.threads)
    torch.manual_seed(settings.seed)
    vocabulary = next_vocabulary(live, history, settings.min_item_events)
    model = expand_vocabulary(
        live,
        vocabulary,
        history,
        settings,
        live.language.text_encoder if live.language else setup.text_encoder,
    )
    columns = history.examples(vocabulary)
    known = columns.times_ms < splits.stop_ms
    counter = count_cooccurrence(columns, known, len(vocabulary), settings)
    tables = count_tables(counter, progress)
    for member in model.members:
        mark_learned(member, columns.items[known], settings.min_item_events)
        if tables:
            set_cooccurrence(member, tables)
    chosen = _select_events(columns, splits, setup) & model.learned_items.numpy()[columns.items]
    stopping = splits.stopping_mask(columns.times_ms)
    inputs = TrainingInputs(
        build_batches(chosen, columns, history, vocabulary, settings),
        build_batches(stopping, columns, history, vocabulary, settings),
        _window_settings(setup),
        counter,
        setup.fine_tuning.live_fraction,
    )
    model, outcome = _learn(model, inputs, setup.fine_tuning.part, progress)
    names = vocabulary.item_ids[FIRST_ITEM:]
    return TrainedModel(
        model.eval(),
        Vocabulary(names, model.learned_items[FIRST_ITEM:].tolist()),
        replace(outcome, seconds=time.monotonic() - started),
        int(columns.times_ms[known].max(initial=splits.since_ms)),
        live.language,
    )


def mark_learned(model: TemporalModel, items: Int64Array, min_events: int) -> None:
    """Items with so many events have an identity of their own from now on."""
    counts = torch.bincount(torch.from_numpy(items), minlength=model.architecture.items)
    found = counts >= min_events
    found[:FIRST_ITEM] = False
    model.learned |= found
    model.recommendable |= found


def _select_events(columns: Examples, splits: DataSplits, setup: TrainingSetup) -> BoolArray:
    """What is learned: the new events, and a sample of earlier ones."""
    # Another draw for every window.
    generator = np.random.default_rng([setup.settings.seed, splits.since_ms])
    new = columns.is_target & splits.learned_mask(columns.times_ms)
    earlier = columns.is_target & (columns.times_ms <= splits.since_ms)
    count = round(setup.fine_tuning.replay * new.sum())
    return new | sample_runs(earlier, columns, count, generator)


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


def _window_settings(setup: TrainingSetup) -> TrainerSettings:
    """The settings of training, with those that a window has of its own."""
    of_window = {"epochs", "learning_rate", "batch_size", "warmup_ratio"}
    return setup.settings.model_copy(update=setup.fine_tuning.model_dump(include=of_window))


def _learn(
    model: Model, inputs: TrainingInputs, part: FineTuneScope, progress: ProgressReporter
) -> tuple[Model, TrainingOutcome]:
    unfrozen = [_unfreeze(member, part) for member in model.members]
    if not (all(unfrozen) and inputs.learned.targets.any()):
        score = held_out_ndcg(model, inputs.held_out, inputs.settings.batch_size)
        return model, TrainingOutcome(0, score, 0.0)
    return fit_ensemble(model.members.__getitem__, inputs, progress)


def _unfreeze(model: TemporalModel, part: FineTuneScope) -> bool:
    """Let a part of the weights learn, and no other; whether there is any."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(_PARTS[part]))
    return any(weight.requires_grad for weight in model.parameters())
