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
from trainer.datasets.item_text import item_texts
from trainer.datasets.log import Log
from trainer.examples.batches import Batches
from trainer.examples.cooccurrence import Cooccurrence, Taken
from trainer.examples.replay import (
    BoolArray,
    Example,
    Examples,
    by_person,
    examples,
    observed_log,
    replay,
)
from trainer.examples.requests import Companions
from trainer.examples.trends import trends
from trainer.network.architecture import NEIGHBOURS, Architecture, architecture
from trainer.network.devices import device_of
from trainer.network.model import TemporalModel
from trainer.network.trained import Trained
from trainer.settings import Part, TrainerSettings, Tuning
from trainer.text.encoder import LanguageModel
from trainer.text.item_features import Descriptions, describe
from trainer.text.pairs import pairs_of
from trainer.text.tuning import Tuned, tune_language_model
from trainer.training.ensembles import fit_members
from trainer.training.fit import Report

HeldOut = Callable[[Observation], bool]


def train_first_model(
    log: Log,
    schema: FeatureSchema,
    settings: TrainerSettings,
    report: Report | None = None,
    reader: LanguageModel | None = None,
    held_out: HeldOut | None = None,
    teacher: Trained | None = None,
) -> Trained:
    """Train on a log.

    Args:
        report: called after every step.
        reader: reads the items' text; items of the catalogue that have a text are then in the
            vocabulary before their first event.
        held_out: events that only tell when to stop, and what parts of a score weigh; default: the
            newest `validation_fraction`.
        teacher: what it answers is learned, too.

    Raises:
        DataError: nothing can be learned from the log, or the teacher knows other items.
        SettingsError: the device or precision of the settings is not to be had.
    """
    device_of(settings)  # What cannot be had is told before anything is read.
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    reader = None if Part.TEXT in settings.ablate else reader
    replayed = by_person(replay(observed_log(log.events, log.items), schema))
    seen = seen_items(replayed, settings.min_item_events)
    if not seen:
        raise DataError(
            f"nothing to learn from: no item has {settings.min_item_events} of the log's "
            f"{len(log.events)} events"
        )
    texts = item_texts(log.items) if reader else {}
    catalogue = {item.item_id: item for item in log.items if item.item_id in texts}
    language = tuned_to(log, catalogue, reader, held_out, settings) if reader else None
    reader = language.reader if language else reader
    vocabulary = Vocabulary([*seen, *sorted(catalogue.keys() - set(seen))])
    _check_teacher(teacher, vocabulary)
    prepared = _prepared(replayed, vocabulary, len(seen), held_out, schema, settings)
    shape = architecture(vocabulary, schema, settings, reader)
    told = describe(vocabulary.item_ids, catalogue, reader) if reader else None
    # Once: factors are found by random draws, and an ensemble has one table of them.
    counted = prepared.counts.of_all() if prepared.counts else None
    model, outcome = fit_members(
        lambda _: _untrained(shape, prepared.with_events, told, counted),
        prepared.learned,
        prepared.held_out,
        settings,
        prepared.counts,
        report,
        teacher=teacher.model if teacher else None,
    )
    names = vocabulary.item_ids[FIRST_ITEM:]
    known = Vocabulary(names, prepared.with_events[FIRST_ITEM:].tolist())
    return Trained(model, known, outcome, log.events[-1].timestamp, language)


def _check_teacher(teacher: Trained | None, vocabulary: Vocabulary) -> None:
    if teacher and list(teacher.vocabulary.item_ids) != list(vocabulary.item_ids):
        raise DataError(
            f"trainer.teacher: knows {len(teacher.vocabulary)} items, here are {len(vocabulary)}, "
            "or in another order: name a version that was trained on the same log"
        )


def tuned_to(
    log: Log,
    catalogue: Mapping[str, Item],
    reader: LanguageModel,
    held_out: HeldOut | None,
    settings: TrainerSettings,
) -> Tuned | None:
    """The language model tuned to what is learned from; None where it stays as it is.

    Raises:
        DataError: there is nothing to tune it on.
    """
    if settings.language_tuning is Tuning.FROZEN:
        return None
    observed = observed_log(log.events, log.items)
    held = held_out or _newest(observed, settings)
    learned = [event for event, seen in zip(log.events, observed, strict=True) if not held(seen)]
    texts = item_texts(catalogue.values())
    numbers = {item_id: number for number, item_id in enumerate(texts)}
    return tune_language_model(reader, list(texts.values()), pairs_of(learned, numbers), settings)


def _untrained(
    shape: Architecture,
    with_events: BoolArray,
    described: Descriptions | None,
    counted: Companions | None,
) -> TemporalModel:
    """A model told which items have events, what the catalogue says, and what is counted."""
    model = TemporalModel(shape)
    model.learned.copy_(torch.from_numpy(with_events))
    known = with_events
    if described:
        known = known | described.told
        model.texts.copy_(torch.from_numpy(described.texts))
        model.described.copy_(torch.from_numpy(described.alike))
    # Of the others nothing is known but that they are there.
    model.recommendable.copy_(torch.from_numpy(known))
    if counted:
        tell_counted(model, counted)
    return model


def tell_counted(model: TemporalModel, counted: Companions) -> None:
    """Give a model what is known of what people take together."""
    model.neighbours.copy_(counted.neighbours)
    model.neighbour_weights.copy_(counted.weights)
    model.factors.copy_(counted.factors)


def seen_items(replayed: Sequence[Example], min_events: int) -> list[str]:
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
    counts: Cooccurrence | None
    with_events: BoolArray


def _prepared(
    replayed: Sequence[Example],
    vocabulary: Vocabulary,
    seen: int,
    held_out: HeldOut | None,
    schema: FeatureSchema,
    settings: TrainerSettings,
) -> _Prepared:
    """Args: seen: items of the vocabulary from this place on have too few events to be learned."""
    counted = [one.event for one in replayed]
    trended = trends(counted, vocabulary, schema, settings.trend_snapshot_ms)
    columns = examples(replayed, vocabulary, schema)
    held = np.fromiter(map(held_out or _newest(counted, settings), counted), np.bool_, len(counted))
    if held.all():
        held[:] = False
    with_events = _with_events(columns.items[~held], vocabulary, FIRST_ITEM + seen)
    learned = ~held & with_events[columns.items]
    history, window = schema.settings.history_length, settings.max_targets_per_sequence
    return _Prepared(
        Batches(columns, trended, learned, history, window),
        Batches(columns, trended, held, history, window),
        counts_of(columns, learned, len(vocabulary), settings),
        with_events,
    )


def counts_of(
    columns: Examples, chosen: BoolArray, items: int, settings: TrainerSettings
) -> Cooccurrence | None:
    """What people took together; None for a model that does not count.

    Args:
        chosen: bool[E], events that count where a recommendation could have been right.
        items: of the vocabulary.
    """
    if Part.COOCCURRENCE in settings.ablate:
        return None
    chosen = chosen & columns.wanted & (columns.items >= FIRST_ITEM)
    taken = Taken(columns.starts[chosen], columns.items[chosen], columns.times_ms[chosen])
    return Cooccurrence(taken, items, NEIGHBOURS, settings.factors)


def _with_events(items: Int64Array, vocabulary: Vocabulary, end: int) -> BoolArray:
    """Which items are among these, bool[N]; the unknown item is, padding is not."""
    found: BoolArray = np.bincount(items, minlength=len(vocabulary)) > 0
    found[UNKNOWN], found[end:] = True, False
    return found


def _newest(events: Sequence[Observation], settings: TrainerSettings) -> HeldOut:
    """Whether an event is among the newest share of these."""
    times_ms = sorted(event.time_ms for event in events)
    held_out = round(len(times_ms) * settings.validation_fraction)
    cut_ms = times_ms[-held_out] if held_out else times_ms[-1] + 1
    return lambda event: event.time_ms >= cut_ms
