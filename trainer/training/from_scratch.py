"""The first model: trained from nothing on a log of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from headwater_client.errors import DataError
from headwater_client.events import Item

from features.arrays import Int64Array
from features.rows import Observation
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM, UNKNOWN, Vocabulary
from trainer.datasets import Log, item_texts
from trainer.examples import (
    BoolArray,
    Example,
    Examples,
    build_examples,
    compute_trends,
    observe_log,
    order_by_person,
    replay_log,
)
from trainer.examples.batches import Batches
from trainer.examples.cooccurrence import CooccurrenceCounter, InteractionColumns
from trainer.examples.requests import CooccurrenceTables
from trainer.network import (
    NEIGHBOURS,
    Architecture,
    TemporalModel,
    TrainedModel,
    architecture_of,
    select_device,
)
from trainer.settings import ModelPart, TrainerSettings, TuningMode
from trainer.text import (
    ItemDescriptions,
    TextEncoder,
    TuningResult,
    describe,
    find_pairs,
    tune_language_model,
)
from trainer.training.ensembles import fit_ensemble
from trainer.training.fit import Report

HoldoutRule = Callable[[Observation], bool]


def train_first_model(
    log: Log,
    schema: FeatureSchema,
    settings: TrainerSettings,
    report: Report | None = None,
    text_encoder: TextEncoder | None = None,
    held_out: HoldoutRule | None = None,
    teacher: TrainedModel | None = None,
) -> TrainedModel:
    """Train on a log.

    Args:
        report: called after every step.
        text_encoder: reads the items' text; items of the catalogue that have a text are then in the
            vocabulary before their first event.
        held_out: events that only tell when to stop, and what parts of a score weigh; default: the
            newest `validation_fraction`.
        teacher: what it answers is learned, too.

    Raises:
        DataError: nothing can be learned from the log, or the teacher knows other items.
        SettingsError: the device or precision of the settings is not to be had.
    """
    select_device(settings)  # What cannot be had is told before anything is read.
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    text_encoder = None if ModelPart.TEXT in settings.ablate else text_encoder
    replayed = order_by_person(replay_log(observe_log(log.events, log.items), schema))
    seen = frequent_items(replayed, settings.min_item_events)
    if not seen:
        raise DataError(
            f"nothing to learn from: no item has {settings.min_item_events} of the log's "
            f"{len(log.events)} events"
        )
    texts = item_texts(log.items) if text_encoder else {}
    catalogue = {item.item_id: item for item in log.items if item.item_id in texts}
    language = (
        tune_to_log(log, catalogue, text_encoder, held_out, settings) if text_encoder else None
    )
    text_encoder = language.text_encoder if language else text_encoder
    vocabulary = Vocabulary([*seen, *sorted(catalogue.keys() - set(seen))])
    _check_teacher(teacher, vocabulary)
    prepared = _prepare(replayed, vocabulary, len(seen), held_out, schema, settings)
    shape = architecture_of(vocabulary, schema, settings, text_encoder)
    told = describe(vocabulary.item_ids, catalogue, text_encoder) if text_encoder else None
    # Once: factors are found by random draws, and an ensemble has one table of them.
    counted = prepared.counts.count_all() if prepared.counts else None
    model, outcome = fit_ensemble(
        lambda _: _initial_model(shape, prepared.with_events, told, counted),
        prepared.learned,
        prepared.held_out,
        settings,
        prepared.counts,
        report,
        teacher=teacher.model if teacher else None,
    )
    names = vocabulary.item_ids[FIRST_ITEM:]
    known = Vocabulary(names, prepared.with_events[FIRST_ITEM:].tolist())
    return TrainedModel(model, known, outcome, log.events[-1].timestamp, language)


def _check_teacher(teacher: TrainedModel | None, vocabulary: Vocabulary) -> None:
    if teacher and list(teacher.vocabulary.item_ids) != list(vocabulary.item_ids):
        raise DataError(
            f"trainer.teacher: knows {len(teacher.vocabulary)} items, here are {len(vocabulary)}, "
            "or in another order: name a version that was trained on the same log"
        )


def tune_to_log(
    log: Log,
    catalogue: Mapping[str, Item],
    text_encoder: TextEncoder,
    held_out: HoldoutRule | None,
    settings: TrainerSettings,
) -> TuningResult | None:
    """The language model tuned to what is learned from; None where it stays as it is.

    Raises:
        DataError: there is nothing to tune it on.
    """
    if settings.language_tuning is TuningMode.FROZEN:
        return None
    observed = observe_log(log.events, log.items)
    held = held_out or _newest_rule(observed, settings)
    learned = [event for event, seen in zip(log.events, observed, strict=True) if not held(seen)]
    texts = item_texts(catalogue.values())
    numbers = {item_id: number for number, item_id in enumerate(texts)}
    return tune_language_model(
        text_encoder, list(texts.values()), find_pairs(learned, numbers), settings
    )


def _initial_model(
    shape: Architecture,
    with_events: BoolArray,
    described: ItemDescriptions | None,
    counted: CooccurrenceTables | None,
) -> TemporalModel:
    """A model told which items have events, what the catalogue says, and what is counted."""
    model = TemporalModel(shape)
    model.learned.copy_(torch.from_numpy(with_events))
    known = with_events
    if described:
        known = known | described.has_text
        model.texts.copy_(torch.from_numpy(described.texts))
        model.described.copy_(torch.from_numpy(described.alike))
    # Of the others nothing is known but that they are there.
    model.recommendable.copy_(torch.from_numpy(known))
    if counted:
        set_cooccurrence(model, counted)
    return model


def set_cooccurrence(model: TemporalModel, counted: CooccurrenceTables) -> None:
    """Give a model what is known of what people take together."""
    model.neighbours.copy_(counted.neighbours)
    model.neighbour_weights.copy_(counted.weights)
    model.factors.copy_(counted.factors)


def frequent_items(replayed: Sequence[Example], min_events: int) -> list[str]:
    """The items that the log tells something of, most frequent first."""
    counts = Counter(one.event.item_id for one in replayed)
    seen = sorted(item for item, count in counts.items() if count >= min_events)
    return sorted(seen, key=lambda item: -counts[item])


@dataclass(frozen=True)
class _Prepared:
    """What is learned from, and what is held out.

    Attributes:
        counts: of what is learned from; None for a model without.
        with_events: bool[N], items that can have an identity.
    """

    learned: Batches
    held_out: Batches
    counts: CooccurrenceCounter | None
    with_events: BoolArray


def _prepare(
    replayed: Sequence[Example],
    vocabulary: Vocabulary,
    seen: int,
    held_out: HoldoutRule | None,
    schema: FeatureSchema,
    settings: TrainerSettings,
) -> _Prepared:
    """Args: seen: items of the vocabulary from this place on have too few events to be learned."""
    counted = [one.event for one in replayed]
    trended = compute_trends(counted, vocabulary, schema, settings.trend_snapshot_ms)
    columns = build_examples(replayed, vocabulary, schema)
    held = np.fromiter(
        map(held_out or _newest_rule(counted, settings), counted), np.bool_, len(counted)
    )
    if held.all():
        held[:] = False
    with_events = _with_events(columns.items[~held], vocabulary, FIRST_ITEM + seen)
    learned = ~held & with_events[columns.items]
    history, window = schema.settings.history_length, settings.max_targets_per_sequence
    return _Prepared(
        Batches(columns, trended, learned, history, window),
        Batches(columns, trended, held, history, window),
        count_cooccurrence(columns, learned, len(vocabulary), settings),
        with_events,
    )


def count_cooccurrence(
    columns: Examples, chosen: BoolArray, items: int, settings: TrainerSettings
) -> CooccurrenceCounter | None:
    """What people took together; None for a model that does not count.

    Args:
        chosen: bool[E], events that count where a recommendation could have been right.
        items: of the vocabulary.
    """
    if ModelPart.COOCCURRENCE in settings.ablate:
        return None
    chosen = chosen & columns.is_target & (columns.items >= FIRST_ITEM)
    taken = InteractionColumns(
        columns.starts[chosen], columns.items[chosen], columns.times_ms[chosen]
    )
    return CooccurrenceCounter(taken, items, NEIGHBOURS, settings.factors)


def _with_events(items: Int64Array, vocabulary: Vocabulary, end: int) -> BoolArray:
    """Which items are among these, bool[N]; the unknown item is, padding is not."""
    found: BoolArray = np.bincount(items, minlength=len(vocabulary)) > 0
    found[UNKNOWN], found[end:] = True, False
    return found


def _newest_rule(events: Sequence[Observation], settings: TrainerSettings) -> HoldoutRule:
    """Whether an event is among the newest share of these."""
    times_ms = sorted(event.time_ms for event in events)
    held_out = round(len(times_ms) * settings.validation_fraction)
    cut_ms = times_ms[-held_out] if held_out else times_ms[-1] + 1
    return lambda event: event.time_ms >= cut_ms
