"""The slow loop's step: a live version learns from a window and becomes the next one.

New items get rows at the end of its tables; those of the live version stay where they were.

E events, N items of the new model.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from headwater_client.errors import DataError
from torch import Tensor

from features.schema import FIRST_ITEM, Int64Array, Vocabulary
from trainer import network
from trainer.datasets import item_texts
from trainer.examples import BoolArray, DataSplits, EventHistory, Examples, previous_times_ms
from trainer.examples.batches import Batches
from trainer.examples.splits import sample_runs
from trainer.progress import ProgressReporter
from trainer.settings import FineTuneScope, ModelPart, TrainerSettings
from trainer.text import ItemDescriptions, TextEncoder, describe_more
from trainer.training import from_scratch
from trainer.training.ensembles import fit_ensemble
from trainer.training.fit import TrainingInputs, held_out_ndcg

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
    live: network.TrainedModel,
    history: EventHistory,
    splits: DataSplits,
    setup: from_scratch.TrainingSetup,
    progress: ProgressReporter | None = None,
) -> network.TrainedModel:
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
    network.select_device(settings)
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
    counter = from_scratch.count_cooccurrence(columns, known, len(vocabulary), settings)
    tables = from_scratch.count_tables(counter, progress)
    for member in model.members:
        mark_learned(member, columns.items[known], settings.min_item_events)
        if tables:
            from_scratch.set_cooccurrence(member, tables)
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
    return network.TrainedModel(
        model.eval(),
        Vocabulary(names, model.learned_items[FIRST_ITEM:].tolist()),
        replace(outcome, seconds=time.monotonic() - started),
        int(columns.times_ms[known].max(initial=splits.since_ms)),
        live.language,
    )


def mark_learned(model: network.TemporalModel, items: Int64Array, min_events: int) -> None:
    """Items with so many events have an identity of their own from now on."""
    counts = torch.bincount(torch.from_numpy(items), minlength=model.architecture.items)
    found = counts >= min_events
    found[:FIRST_ITEM] = False
    model.learned |= found
    model.recommendable |= found


def _select_events(
    columns: Examples, splits: DataSplits, setup: from_scratch.TrainingSetup
) -> BoolArray:
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


def _window_settings(setup: from_scratch.TrainingSetup) -> TrainerSettings:
    """The settings of training, with those that a window has of its own."""
    of_window = {"epochs", "learning_rate", "batch_size", "warmup_ratio"}
    return setup.settings.model_copy(update=setup.fine_tuning.model_dump(include=of_window))


def _learn(
    model: network.Model, inputs: TrainingInputs, part: FineTuneScope, progress: ProgressReporter
) -> tuple[network.Model, network.TrainingOutcome]:
    unfrozen = [_unfreeze(member, part) for member in model.members]
    if not (all(unfrozen) and inputs.learned.targets.any()):
        score = held_out_ndcg(model, inputs.held_out, inputs.settings.batch_size)
        return model, network.TrainingOutcome(0, score, 0.0)
    return fit_ensemble(model.members.__getitem__, inputs, progress)


def _unfreeze(model: network.TemporalModel, part: FineTuneScope) -> bool:
    """Let a part of the weights learn, and no other; whether there is any."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(_PARTS[part]))
    return any(weight.requires_grad for weight in model.parameters())


# What the version itself makes of its items: the rest of a shape is the settings' choice.
_OF_ITEMS = ("items", "neighbours", "dropout")


def next_vocabulary(
    live: network.TrainedModel, history: EventHistory, min_events: int
) -> Vocabulary:
    """The live version's items, then those that have a text or enough events since.

    `learned` is not of the new version yet.
    """
    names = live.vocabulary.item_ids[FIRST_ITEM:]
    counts = history.events_of
    seen = [name for name, count in counts.items() if count >= min_events]
    told = item_texts(history.catalogue.values()) if live.model.architecture.text else {}
    return Vocabulary(list(dict.fromkeys([*names, *seen, *sorted(told)])))


def expand_vocabulary(
    live: network.TrainedModel,
    vocabulary: Vocabulary,
    history: EventHistory,
    settings: TrainerSettings,
    text_encoder: TextEncoder | None,
) -> network.Model:
    """A model of the vocabulary that scores the live items as the live version does.

    A new item is what the catalogue says of it. What the live version read of its items stays: they
    are described anew by a training from nothing.

    Args:
        text_encoder: what read the live version's items; None for a version without texts.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
    """
    text_encoder = None if ModelPart.TEXT in settings.ablate else text_encoder
    shape = network.architecture_of(vocabulary, history.schema, settings, text_encoder)
    _check_shape(live.model, shape, settings)
    members = [_widen(member, shape) for member in live.model.members]
    if text_encoder:
        _describe_new(members, vocabulary, history, text_encoder)
    return network.join_models(members)


def _widen(live: network.TemporalModel, shape: network.Architecture) -> network.TemporalModel:
    """The live model, and rows of which nothing is known."""
    model = network.TemporalModel(shape)
    own = model.state_dict()
    for name, values in live.state_dict().items():
        _copy_rows(own[name], values)
    known = live.architecture.items
    model.learned[known:] = False
    model.recommendable[known:] = False
    with torch.no_grad():
        # Without events there is nothing to start from but the text.
        unlearned = torch.nonzero(~model.learned[FIRST_ITEM:]).flatten() + FIRST_ITEM
        model.items.weight[unlearned] = 0
        model.item_bias[unlearned] = 0
    return model


def _check_shape(
    live: network.Model, wanted: network.Architecture, settings: TrainerSettings
) -> None:
    found = asdict(live.architecture) | {"ensemble_size": len(live.members)}
    asked = asdict(wanted) | {"ensemble_size": settings.ensemble_size}
    for name in sorted(found.keys() - set(_OF_ITEMS)):
        if found[name] != asked[name]:
            raise DataError(
                f"the live version has {name} {found[name]}, the settings ask for {asked[name]}: "
                "put the setting back, or train from nothing: headwater train"
            )


def _copy_rows(target: Tensor, values: Tensor) -> None:
    """The first rows, and of wider ones the first columns."""
    if values.dim():
        target[tuple(slice(size) for size in values.shape)] = values
    else:
        target.copy_(values)


def _describe_new(
    members: Sequence[network.TemporalModel],
    vocabulary: Vocabulary,
    history: EventHistory,
    text_encoder: TextEncoder,
) -> None:
    """Let rows without a text say what the catalogue has come to say of them."""
    texts, alike = members[0].texts.numpy(), members[0].described.numpy()
    silent = ~np.any(texts, axis=1)
    told = item_texts(history.catalogue.values())
    new = [at for at in np.flatnonzero(silent).tolist() if vocabulary.item_ids[at] in told]
    if not new:
        return
    names = [vocabulary.item_ids[at] for at in new]
    before = ItemDescriptions(texts[~silent], alike[~silent], np.ones((~silent).sum(), np.bool_))
    found = describe_more(names, history.catalogue, text_encoder, before)
    for model in members:
        model.texts[new] = torch.from_numpy(found.texts)
        model.described[new] = torch.from_numpy(found.alike)
        model.recommendable[new] = True
