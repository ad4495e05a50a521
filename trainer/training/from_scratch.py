"""The first model: trained from nothing on a log of events."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from headwater_client.errors import DataError

from features.rows import Observation
from features.schema import FIRST_ITEM, UNKNOWN, FeatureSchema, Int64Array, Vocabulary
from trainer import examples, network, text
from trainer.datasets import Log, item_texts
from trainer.examples import cooccurrence
from trainer.examples.batches import Batches
from trainer.progress import ProgressReporter, TrainingPhase
from trainer.settings import FineTuneSettings, ModelPart, TrainerSettings, TuningMode
from trainer.training.ensembles import fit_ensemble
from trainer.training.fit import TrainingInputs

HoldoutRule = Callable[[Observation], bool]


@dataclass(frozen=True)
class TrainingSetup:
    """How models are made, whatever the log.

    Attributes:
        text_encoder: the untuned language model of the settings; None for a model without texts.
        teacher: a model whose answers a first model learns, too.
    """

    settings: TrainerSettings
    fine_tuning: FineTuneSettings = field(default_factory=FineTuneSettings)
    text_encoder: text.TextEncoder | None = None
    teacher: network.TrainedModel | None = None


def train_first_model(
    log: Log,
    schema: FeatureSchema,
    setup: TrainingSetup,
    progress: ProgressReporter | None = None,
    is_held_out: HoldoutRule | None = None,
) -> network.TrainedModel:
    """Train on a log. Items of the catalogue that have a text are known before their first event.

    Args:
        is_held_out: which events only tell when to stop, and what parts of a score weigh; default:
            the newest `validation_fraction`.

    Raises:
        DataError: nothing can be learned from the log, or the teacher knows other items.
        SettingsError: the device or precision of the settings is not to be had.
    """
    settings = setup.settings
    # Fail on an unavailable device before reading the data.
    network.select_device(settings)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    return _FirstTraining(log, schema, setup, progress or ProgressReporter(), is_held_out).run()


class _FirstTraining:
    def __init__(
        self,
        log: Log,
        schema: FeatureSchema,
        setup: TrainingSetup,
        progress: ProgressReporter,
        is_held_out: HoldoutRule | None,
    ) -> None:
        self.log, self.schema, self.setup = log, schema, setup
        self.settings, self.progress, self.is_held_out = setup.settings, progress, is_held_out
        with_text = ModelPart.TEXT not in self.settings.ablate
        self.text_encoder = setup.text_encoder if with_text else None

    def run(self) -> network.TrainedModel:
        observed = examples.observe_log(self.log.events, self.log.items)
        tracked = self.progress.track(TrainingPhase.EXAMPLES, observed)
        replayed = examples.order_by_person(examples.replay_log(tracked, self.schema))
        seen = self._seen_items(replayed)
        texts = item_texts(self.log.items) if self.text_encoder else {}
        catalogue = {item.item_id: item for item in self.log.items if item.item_id in texts}
        tuned = self._tune_text_encoder(examples.select_positive(observed, replayed), texts)
        text_encoder = tuned.text_encoder if tuned else self.text_encoder
        vocabulary = Vocabulary([*seen, *sorted(catalogue.keys() - set(seen))])
        _check_teacher(self.setup.teacher, vocabulary)
        inputs, with_events = self._make_inputs(replayed, vocabulary, len(seen))
        shape = network.architecture_of(vocabulary, self.schema, self.settings, text_encoder)
        described = None
        if text_encoder:
            self.progress.start(TrainingPhase.TEXT)
            described = text.describe(
                vocabulary.item_ids, catalogue, text_encoder, self.progress.update
            )
        # Once: factors are found by random draws, and an ensemble has one table of them.
        tables = count_tables(inputs.cooccurrence, self.progress)
        model, outcome = fit_ensemble(
            lambda _: _initial_model(shape, with_events, described, tables), inputs, self.progress
        )
        names = vocabulary.item_ids[FIRST_ITEM:]
        known = Vocabulary(names, with_events[FIRST_ITEM:].tolist())
        return network.TrainedModel(model, known, outcome, self.log.events[-1].timestamp, tuned)

    def _seen_items(self, replayed: Sequence[examples.Example]) -> list[str]:
        """The items with enough events, most frequent first."""
        least = self.settings.min_item_events
        seen = frequent_items(replayed, least)
        if not seen:
            raise DataError(
                f"nothing to learn from: no item has {least} of the log's "
                f"{len(self.log.events)} events"
            )
        return seen

    def _tune_text_encoder(
        self, observed: Sequence[Observation], texts: Mapping[str, str]
    ) -> text.TuningResult | None:
        """The language model tuned to what is learned from; None where it stays as it is.

        Args:
            observed: events of the log that say for an item.

        Raises:
            DataError: there is nothing to tune it on.
        """
        settings = self.settings
        if not self.text_encoder or settings.language_tuning is TuningMode.FROZEN:
            return None
        is_held_out = self.is_held_out or _newest_rule(observed, settings)
        learned = [self.log.events[seen.offset] for seen in observed if not is_held_out(seen)]
        numbers = {item_id: number for number, item_id in enumerate(texts)}
        self.progress.start(TrainingPhase.TEXT_TUNING, settings.language_max_seconds)
        return text.tune_language_model(
            self.text_encoder,
            list(texts.values()),
            text.find_pairs(learned, numbers),
            settings,
            lambda tuning: self.progress.update(tuning.step / tuning.steps),
        )

    def _make_inputs(
        self, replayed: Sequence[examples.Example], vocabulary: Vocabulary, seen: int
    ) -> tuple[TrainingInputs, examples.BoolArray]:
        """What is learned from and held out; and bool[N], which items can have an identity.

        Args:
            seen: items of the vocabulary from this place on have too few events to be learned.
        """
        settings, teacher = self.settings, self.setup.teacher
        events = [example.event for example in replayed]
        trends = examples.compute_trends(
            examples.item_events(replayed), vocabulary, self.schema, settings.trend_snapshot_ms
        )
        columns = examples.build_examples(replayed, vocabulary, self.schema)
        rule = self.is_held_out or _newest_rule(events, settings)
        held = np.fromiter(map(rule, events), np.bool_, len(events))
        if held.all():
            held[:] = False
        with_events = _with_events(columns.items[~held], vocabulary, FIRST_ITEM + seen)
        learned = ~held & with_events[columns.items]
        history = self.schema.settings.history_length
        longest = settings.max_targets_per_sequence
        inputs = TrainingInputs(
            Batches(columns, trends, learned, history, longest),
            Batches(columns, trends, held, history, longest),
            settings,
            count_cooccurrence(columns, learned, len(vocabulary), settings),
            teacher=teacher.model if teacher else None,
        )
        return inputs, with_events


def count_tables(
    counter: cooccurrence.CooccurrenceCounter | None, progress: ProgressReporter
) -> cooccurrence.CooccurrenceTables | None:
    """The co-occurrence that a version takes with it; None for a model without."""
    if counter is None:
        return None
    progress.start(TrainingPhase.COOCCURRENCE)
    tables = counter.count_all()
    progress.update(1.0)
    return tables


def _check_teacher(teacher: network.TrainedModel | None, vocabulary: Vocabulary) -> None:
    if teacher and list(teacher.vocabulary.item_ids) != list(vocabulary.item_ids):
        raise DataError(
            f"trainer.teacher: knows {len(teacher.vocabulary)} items, here are {len(vocabulary)}, "
            "or in another order: name a version that was trained on the same log"
        )


def _initial_model(
    shape: network.Architecture,
    with_events: examples.BoolArray,
    described: text.ItemDescriptions | None,
    counted: cooccurrence.CooccurrenceTables | None,
) -> network.TemporalModel:
    """A model told which items have events, what the catalogue says, and what is counted."""
    model = network.TemporalModel(shape)
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


def set_cooccurrence(
    model: network.TemporalModel, counted: cooccurrence.CooccurrenceTables
) -> None:
    """Give a model what is known of what people take together."""
    model.neighbours.copy_(counted.neighbours)
    model.neighbour_weights.copy_(counted.weights)
    model.factors.copy_(counted.factors)


def frequent_items(replayed: Sequence[examples.Example], min_events: int) -> list[str]:
    """The items that the log tells something of, most frequent first."""
    counts = Counter(one.event.item_id for one in replayed)
    seen = sorted(item for item, count in counts.items() if count >= min_events)
    return sorted(seen, key=lambda item: -counts[item])


def count_cooccurrence(
    columns: examples.Examples, chosen: examples.BoolArray, items: int, settings: TrainerSettings
) -> cooccurrence.CooccurrenceCounter | None:
    """What people took together; None for a model that does not count.

    Args:
        chosen: bool[E], events that count where a recommendation could have been right.
        items: of the vocabulary.
    """
    if ModelPart.COOCCURRENCE in settings.ablate:
        return None
    chosen = chosen & columns.is_target & (columns.items >= FIRST_ITEM)
    taken = cooccurrence.InteractionColumns(
        columns.starts[chosen], columns.items[chosen], columns.times_ms[chosen]
    )
    return cooccurrence.CooccurrenceCounter(taken, items, network.NEIGHBOURS, settings.factors)


def _with_events(items: Int64Array, vocabulary: Vocabulary, end: int) -> examples.BoolArray:
    """Which items are among these, bool[N]; the unknown item is, padding is not."""
    found: examples.BoolArray = np.bincount(items, minlength=len(vocabulary)) > 0
    found[UNKNOWN], found[end:] = True, False
    return found


def _newest_rule(events: Sequence[Observation], settings: TrainerSettings) -> HoldoutRule:
    """Whether an event is among the newest share of these."""
    times_ms = sorted(event.time_ms for event in events)
    held_out = round(len(times_ms) * settings.validation_fraction)
    cut_ms = times_ms[-held_out] if held_out else times_ms[-1] + 1
    return lambda event: event.time_ms >= cut_ms
