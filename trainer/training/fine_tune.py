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
from trainer.examples.batches import Batches
from trainer.examples.cooccurrence import Cooccurrence
from trainer.examples.history import History
from trainer.examples.instants import instant_before
from trainer.examples.replay import BoolArray, Examples
from trainer.examples.splits import Slices, sample
from trainer.network.devices import device_of
from trainer.network.ensemble import Model
from trainer.network.model import TemporalModel
from trainer.network.trained import Outcome, Trained
from trainer.settings import FineTuned, FineTuneSettings, TrainerSettings
from trainer.text.encoder import LanguageModel
from trainer.training.ensembles import fit_members
from trainer.training.expand import grown, vocabulary_of
from trainer.training.fit import Report, held_out_ndcg
from trainer.training.from_scratch import counts_of, tell_counted

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
    FineTuned.NOTHING: (),
    FineTuned.ITEMS: _ITEMS,
    FineTuned.HEADS: _HEADS,
    FineTuned.ALL: ("",),
}


def fine_tune(
    live: Trained,
    history: History,
    slices: Slices,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
    reader: LanguageModel | None = None,
    report: Report | None = None,
) -> Trained:
    """The next version: new items, all that is counted anew, and weights that learned the window.

    The live version stays as it is. What it was not yet told of earlier windows, because that told
    when to stop or was kept for the gate, is new in this one.

    Args:
        history: all events up to the end of the window, and the catalogue.
        slices: of that history; `trainer.examples.splits.slices_of`.
        reader: the untuned language model of the settings.
        report: called after every step.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
        SettingsError: the device or precision of the settings is not to be had.
    """
    started = time.monotonic()
    device_of(settings)  # What cannot be had is told before anything is read.
    torch.set_num_threads(tuning.threads)
    torch.manual_seed(settings.seed)
    vocabulary = vocabulary_of(live, history, settings.min_item_events)
    model = grown(
        live, vocabulary, history, settings, live.language.reader if live.language else reader
    )
    columns = history.examples(vocabulary)
    known = columns.times_ms < slices.stop_ms
    counts = counts_of(columns, known, len(vocabulary), settings)
    counted = counts.of_all() if counts else None
    for member in model.members:
        tell_learned(member, columns.items[known], settings.min_item_events)
        if counted:
            tell_counted(member, counted)
    chosen = _chosen(columns, slices, settings, tuning) & model.learned.numpy()[columns.items]
    learned = batches_of(chosen, columns, history, vocabulary, settings)
    stopping = batches_of(slices.stopping(columns.times_ms), columns, history, vocabulary, settings)
    model, outcome = _learn(model, learned, stopping, counts, settings, tuning, report)
    names = vocabulary.item_ids[FIRST_ITEM:]
    return Trained(
        model.eval(),
        Vocabulary(names, model.learned[FIRST_ITEM:].tolist()),
        replace(outcome, seconds=time.monotonic() - started),
        int(columns.times_ms[known].max(initial=slices.since_ms)),
        live.language,
    )


def tell_learned(model: TemporalModel, items: Int64Array, min_events: int) -> None:
    """Items with so many events have an identity of their own from now on."""
    counts = torch.bincount(torch.from_numpy(items), minlength=model.architecture.items)
    found = counts >= min_events
    found[:FIRST_ITEM] = False
    model.learned |= found
    model.recommendable |= found


def _chosen(
    columns: Examples,
    slices: Slices,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
) -> BoolArray:
    """What is learned: the new events, and a sample of earlier ones."""
    # Another draw for every window.
    generator = np.random.default_rng([settings.seed, slices.since_ms])
    new = columns.wanted & slices.learned(columns.times_ms)
    earlier = columns.wanted & (columns.times_ms <= slices.since_ms)
    return new | sample(earlier, columns, round(tuning.replay * new.sum()), generator)


def batches_of(
    chosen: BoolArray,
    columns: Examples,
    history: History,
    vocabulary: Vocabulary,
    settings: TrainerSettings,
) -> Batches:
    """Batches of the chosen events, with the trends that they need: bool[E]."""
    # Some requests are made right after what happened before.
    asked_ms = np.concatenate([columns.times_ms[chosen], instant_before(columns)[chosen]])
    trended = history.trends(vocabulary, asked_ms, settings.trend_snapshot_ms)
    length = history.schema.settings.history_length
    return Batches(columns, trended, chosen, length, settings.max_targets_per_sequence)


def _learn(
    model: Model,
    learned: Batches,
    stopping: Batches,
    counts: Cooccurrence | None,
    settings: TrainerSettings,
    tuning: FineTuneSettings,
    report: Report | None,
) -> tuple[Model, Outcome]:
    opened = [_open(member, tuning.part) for member in model.members]
    if not (all(opened) and learned.targets.any()):
        return model, Outcome(0, held_out_ndcg(model, stopping, settings.batch_size), 0.0)
    of_window = {"epochs", "learning_rate", "batch_size", "warmup_ratio"}
    settings = settings.model_copy(update=tuning.model_dump(include=of_window))
    begin = model.members.__getitem__
    return fit_members(begin, learned, stopping, settings, counts, report, tuning.live_fraction)


def _open(model: TemporalModel, part: FineTuned) -> bool:
    """Let a part of the weights learn, and no other; whether there is any."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(_PARTS[part]))
    return any(weight.requires_grad for weight in model.parameters())
