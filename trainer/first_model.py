"""The first model: trained from nothing on a log of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from features import inputs
from features.errors import DataError
from features.events import Item
from features.inputs import IntArray
from features.rows import Layout, Observed
from features.vocabulary import FIRST_ITEM, UNKNOWN, Vocabulary
from trainer.batches import Batches
from trainer.data import Log
from trainer.examples import BoolArray, Example, examples, observed_log, replay, shuffled_instants
from trainer.language import LanguageModel, item_text
from trainer.language_pairs import pairs_of
from trainer.language_tuning import Tuned, tune_language_model
from trainer.model import LOWEST, Architecture, TemporalModel
from trainer.settings import TrainerSettings, Tuning
from trainer.train import Outcome, Progress, Report, fit
from trainer.trends import trends

__all__ = ["Progress", "Report", "Trained", "train_first_model"]


@dataclass(frozen=True)
class Trained:
    """A trained model and what it takes to use it: item i of the model is i of the vocabulary.

    Attributes:
        language: the language model that read its items, where that was tuned.
    """

    model: TemporalModel
    vocabulary: Vocabulary
    outcome: Outcome
    language: Tuned | None = None


def train_first_model(
    log: Log,
    layout: Layout,
    settings: TrainerSettings,
    report: Report | None = None,
    reader: LanguageModel | None = None,
) -> Trained:
    """Train on a log; its newest `validation_share` only tells when to stop.

    Args:
        report: called after every step.
        reader: reads the items' text; items of the catalogue that have a text are then in the
            vocabulary before their first event.

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
    seen = seen_items(orders[0], settings.min_item_events)
    if not seen:
        raise DataError(
            f"nothing to learn from: no item has {settings.min_item_events} of the log's "
            f"{len(events)} events"
        )
    texts = item_texts(log.items) if reader else {}
    language = tuned_to(log, texts, reader, settings) if reader else None
    reader = language.reader if language else reader
    vocabulary = Vocabulary([*seen, *sorted(texts.keys() - set(seen))])
    prepared = _prepared(orders, vocabulary, FIRST_ITEM + len(seen), layout, settings)
    model = TemporalModel(architecture(vocabulary, layout, settings, reader.width if reader else 0))
    known = [texts.get(item_id, "") for item_id in vocabulary.item_ids]
    _tell(model, prepared.with_events, known, reader)
    outcome = fit(model, prepared.orders, prepared.held_out, settings, report)
    return Trained(model, vocabulary, outcome, language)


def tuned_to(
    log: Log, texts: Mapping[str, str], reader: LanguageModel, settings: TrainerSettings
) -> Tuned | None:
    """The language model tuned to a log but for its newest part; None where it stays as it is.

    Raises:
        DataError: there is nothing to tune it on.
    """
    if settings.language_tuning is Tuning.FROZEN:
        return None
    learned = log.split(1 - settings.validation_share)[0]
    numbers = {item_id: number for number, item_id in enumerate(texts)}
    pairs = pairs_of(learned.events, numbers)
    return tune_language_model(reader, list(texts.values()), pairs, settings)


def _tell(
    model: TemporalModel, with_events: BoolArray, texts: Sequence[str], reader: LanguageModel | None
) -> None:
    """Tell an untrained model which items have events, and what the texts say."""
    learned, described = torch.from_numpy(with_events), torch.tensor([bool(text) for text in texts])
    model.learned.copy_(learned)
    if reader:
        model.texts.copy_(torch.from_numpy(reader.vectors(texts)))
    with torch.no_grad():
        # Nothing is known of these but that they are there; training leaves this as it is.
        model.item_bias[~learned & ~described] = LOWEST


def item_texts(items: Sequence[Item]) -> dict[str, str]:
    """The text of each item that has one, by item id."""
    texts = {item.item_id: item_text(item) for item in items}
    return {item_id: text for item_id, text in texts.items() if text}


def seen_items(replayed: Sequence[Example], min_events: int) -> list[str]:
    """The items that the log tells something of, most frequent first."""
    counts = Counter(one.event.item_id for one in replayed)
    seen = sorted(item for item, count in counts.items() if count >= min_events)
    return sorted(seen, key=lambda item: -counts[item])


def architecture(
    vocabulary: Vocabulary, layout: Layout, settings: TrainerSettings, text: int = 0
) -> Architecture:
    """The shape of a model for these items and rows, and texts of this width."""
    return Architecture(
        items=len(vocabulary),
        user_features=inputs.user_feature_count(layout),
        trends=inputs.trend_count(layout),
        history=layout.settings.history_length,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
        text=text,
    )


@dataclass(frozen=True)
class _Prepared:
    """What is learned from, in each order, and the newest targets, held out.

    Attributes:
        with_events: bool[N], items that can have an identity.
    """

    orders: list[Batches]
    held_out: Batches
    with_events: BoolArray


def _prepared(
    orders: Sequence[Sequence[Example]],
    vocabulary: Vocabulary,
    end: int,
    layout: Layout,
    settings: TrainerSettings,
) -> _Prepared:
    """Args: end: items from this index on have too few events to have an identity."""
    counted: list[Observed] = [one.event for one in orders[0]]
    trended = trends(counted, vocabulary, layout, settings.trend_snapshot_ms)
    columns = [examples(one, vocabulary, layout) for one in orders]
    cut_ms = _newest(counted, settings.validation_share)
    with_events = _with_events(columns[0].items[columns[0].times_ms < cut_ms], vocabulary, end)
    history = layout.settings.history_length
    learned = [(one.times_ms < cut_ms) & with_events[one.items] for one in columns]
    newest = columns[0].times_ms >= cut_ms
    return _Prepared(
        [
            Batches(one, trended, chosen, history, settings.window)
            for one, chosen in zip(columns, learned, strict=True)
        ],
        Batches(columns[0], trended, newest, history, settings.window),
        with_events,
    )


def _with_events(items: IntArray, vocabulary: Vocabulary, end: int) -> BoolArray:
    """Which items are among these, bool[N]; the unknown item is, padding is not."""
    found: BoolArray = np.bincount(items, minlength=len(vocabulary)) > 0
    found[UNKNOWN], found[end:] = True, False
    return found


def _newest(events: Sequence[Observed], share: float) -> int:
    """The time from which on events are held out; a time after all where there are too few."""
    held_out = round(len(events) * share)
    cut_ms = events[-held_out].time_ms if held_out else events[-1].time_ms + 1
    return cut_ms if cut_ms > events[0].time_ms else events[-1].time_ms + 1
