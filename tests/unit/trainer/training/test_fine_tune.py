"""A live version learns from a window, keeps what it was, and survives whatever a window holds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from headwater_client.errors import DataError
from headwater_client.events import Item

from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from tests.harness.progress import keep_metrics
from tests.harness.walks import ITEMS, START_MS, STEP_MS, Events, catalogue, walks
from tests.unit.trainer.training.test_from_scratch import TEXT_ENCODER
from trainer.datasets import Log
from trainer.examples import EventHistory, split_by_time
from trainer.examples.batches import Batches
from trainer.network import TemporalModel, TrainedModel, batch_scores, join_models
from trainer.progress import EpochMetrics, ProgressReporter
from trainer.registry.checkpoint import load_parent, save
from trainer.settings import FineTuneScope, FineTuneSettings, TrainerSettings
from trainer.training import TrainingSetup, fine_tune, held_out_ndcg, train_first_model
from trainer.training.fine_tune import build_batches, expand_vocabulary, next_vocabulary

SETTINGS = TrainerSettings(
    width=16,
    epochs=8,
    batch_size=4,
    learning_rate=0.01,
    dropout=0.0,
    threads=1,
    # A busy machine must not end it early.
    max_seconds=1000,
)
TUNING = FineTuneSettings(
    epochs=20, learning_rate=0.01, replay=0.5, batch_size=4, early_stopping_fraction=0.2
)
BEFORE = walks(range(50), 1)
WINDOW = walks(range(50, 90), 3)
FILMS = catalogue([f"i{at}" for at in range(ITEMS)])


@pytest.fixture(scope="module")
def live(schema: FeatureSchema) -> TrainedModel:
    return train_first_model(
        Log(BEFORE, FILMS), schema, TrainingSetup(SETTINGS, text_encoder=TEXT_ENCODER)
    )


def history_of(schema: FeatureSchema, window: Events, items: Sequence[Item] = ()) -> EventHistory:
    history = EventHistory(schema, FILMS)
    history.extend(BEFORE)
    history.extend(window, items)
    return history


def tuned(
    live: TrainedModel, history: EventHistory, tuning: FineTuneSettings = TUNING
) -> TrainedModel:
    cut = split_by_time(history.times_ms, live.until_ms, tuning)
    return fine_tune(live, history, cut, TrainingSetup(SETTINGS, tuning, TEXT_ENCODER))


def part(changes: FineTuneScope) -> FineTuneSettings:
    return TUNING.model_copy(update={"part": changes, "epochs": 1})


def held_batches(trained: TrainedModel, history: EventHistory) -> Batches:
    """The slice of the window that is left to the gate."""
    columns = history.examples(trained.vocabulary)
    cut = split_by_time(history.times_ms, BEFORE[-1].timestamp, TUNING)
    chosen = cut.holdout_mask(columns.times_ms)
    trended = history.trends(trained.vocabulary, columns.times_ms, STEP_MS)
    return Batches(columns, trended, chosen, 8, SETTINGS.max_targets_per_sequence)


def weights(model: TemporalModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_a_window_is_learned(live: TrainedModel, schema: FeatureSchema) -> None:
    """Everyone has begun to go by threes."""
    history = history_of(schema, WINDOW)
    before = held_out_ndcg(live.model, held_batches(live, history), 4)
    found = tuned(live, history)
    assert held_out_ndcg(found.model, held_batches(found, history), 4) > before + 0.1
    assert found.outcome.held_out > 0
    cut = split_by_time(history.times_ms, live.until_ms, TUNING)
    assert found.until_ms == history.times_ms[history.times_ms < cut.stop_ms].max()


def test_the_live_version_stays_as_it_is(live: TrainedModel, schema: FeatureSchema) -> None:
    before = copy.deepcopy(live.model.state_dict())
    names = list(live.vocabulary.item_ids)
    tuned(live, history_of(schema, WINDOW, catalogue(["new"])))
    assert live.vocabulary.item_ids == names
    for name, values in live.model.state_dict().items():
        assert torch.equal(values, before[name]), name


def test_items_keep_their_places_and_new_ones_come_after(
    live: TrainedModel, schema: FeatureSchema
) -> None:
    window = walks(range(50, 60), 1, names="other ")
    found = tuned(live, history_of(schema, window, catalogue(["new"])), part(FineTuneScope.NOTHING))
    known = len(live.vocabulary)
    names = found.vocabulary.item_ids
    assert names[:known] == live.vocabulary.item_ids
    assert {*names[known:]} == {"new"} | {event.item_id for event in window}
    assert found.model.architecture.items == len(names)
    assert found.vocabulary.learned[:known].all()
    learned = {name for name, yes in zip(names, found.vocabulary.learned, strict=True) if yes}
    assert "new" not in learned
    assert window[0].item_id in learned, "it has events that are not held out"
    assert window[-1].item_id in learned
    np.testing.assert_array_equal(
        found.vocabulary.learned[FIRST_ITEM:], found.model.learned[FIRST_ITEM:]
    )


def test_a_new_item_scores_from_its_text_at_once(live: TrainedModel, schema: FeatureSchema) -> None:
    """No event has it. It reads as the live item that says the same of itself."""
    twin = msgspec.structs.replace(FILMS[4], item_id="twin")
    history = history_of(schema, WINDOW, [twin, Item(item_id="says nothing")])
    found = tuned(live, history, part(FineTuneScope.NOTHING))
    model = found.model
    own, like = found.vocabulary.indices_of(["twin", FILMS[4].item_id])
    assert model.recommendable[own]
    assert not model.learned[own]
    torch.testing.assert_close(model.texts[own], model.texts[like])
    directions = TEXT_ENCODER.width
    torch.testing.assert_close(
        model.described[own, :directions], model.described[like, :directions]
    )
    assert "says nothing" not in found.vocabulary.item_ids
    assert not model.items.weight[own].any(), "nothing but the text"
    batch = next(held_batches(found, history).epoch(4, np.random.default_rng(0)))
    scores = batch_scores(model, batch)
    assert (scores[:, own] > -100).all()


def test_an_item_that_comes_to_have_a_text_is_read(
    live: TrainedModel, schema: FeatureSchema
) -> None:
    others = walks(range(50, 55), 1, names="other ")
    name = others[0].item_id
    history = history_of(schema, others)
    silent = tuned(live, history, part(FineTuneScope.NOTHING))
    (item,) = silent.vocabulary.indices_of([name])
    assert not silent.model.texts[item].any()
    history.extend(walks(range(92, 100), 1), catalogue([name]))
    found = tuned(silent, history, part(FineTuneScope.NOTHING))
    assert found.vocabulary.indices_of([name]) == item
    assert found.model.texts[item].any()


def test_where_nothing_learns_only_what_is_counted_is_new(
    live: TrainedModel, schema: FeatureSchema
) -> None:
    found = tuned(live, history_of(schema, WINDOW), part(FineTuneScope.NOTHING))
    for name, weight in live.model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), weight), name
    (item,) = found.vocabulary.indices_of(["i7"])
    companions = found.model.neighbours[item][found.model.neighbour_weights[item] > 0]
    names = {found.vocabulary.item_ids[at] for at in companions.tolist()}
    assert {"i8", "i6", "i10", "i4"} <= names, "those before, and those of the window"


@pytest.mark.parametrize("changes", [FineTuneScope.ITEMS, FineTuneScope.HEADS, FineTuneScope.ALL])
def test_only_the_chosen_part_learns(
    live: TrainedModel, schema: FeatureSchema, changes: FineTuneScope
) -> None:
    found = tuned(live, history_of(schema, WINDOW), part(changes))
    before = weights(live.model)
    changed = {
        name
        for name, weight in found.model.named_parameters()
        if not torch.equal(weight, before[name])
    }
    # The balance of the parts is found anew in any case.
    scaled = {name for name in before if name.startswith(("state", "text_bias", "trend", "near"))}
    scaled |= {"item_bias", "alike.size.bias"}
    assert "items.weight" in changed
    assert ("user.weight" in changed) is (changes is not FineTuneScope.ITEMS)
    assert ("events.weight" in changed) is (changes is FineTuneScope.ALL)
    if changes is FineTuneScope.ITEMS:
        assert changed <= scaled | {"items.weight"}


def test_the_next_version_is_a_mean_of_the_live_one_and_what_was_learned(
    live: TrainedModel, schema: FeatureSchema
) -> None:
    history = history_of(schema, [*WINDOW, *walks(range(90, 110), 1, names="other ")])

    def learned_weights(live_fraction: float) -> torch.Tensor:
        settings = TUNING.model_copy(update={"live_fraction": live_fraction})
        return tuned(live, history, settings).model.items.weight

    known = len(live.vocabulary)
    whole, quarter, before = learned_weights(0.0), learned_weights(0.75), live.model.items.weight
    assert not torch.allclose(whole[:known], before)
    assert torch.allclose(quarter[:known] - before, (whole[:known] - before) / 4, atol=1e-6)
    # What is new has nothing to be averaged with.
    assert whole[known:].any()
    assert torch.equal(quarter[known:], whole[known:])


def test_it_is_drawn_by_the_seed(live: TrainedModel, schema: FeatureSchema) -> None:
    history = history_of(schema, WINDOW)
    one, same = (tuned(live, history, part(FineTuneScope.ALL)) for _ in range(2))
    for name, weight in one.model.named_parameters():
        assert torch.equal(same.model.get_parameter(name), weight), name


def test_a_window_of_one_event_is_learned_whole(live: TrainedModel, schema: FeatureSchema) -> None:
    found = tuned(live, history_of(schema, WINDOW[:1]), part(FineTuneScope.ALL))
    assert found.until_ms == WINDOW[0].timestamp
    assert found.outcome.held_out == 0


def test_a_version_from_its_folder_is_learned_on_from(
    live: TrainedModel, schema: FeatureSchema, tmp_path: Path
) -> None:
    save(live, tmp_path, {})
    history = history_of(schema, WINDOW)
    found = tuned(load_parent(tmp_path, TEXT_ENCODER), history, part(FineTuneScope.ALL))
    for name, weight in tuned(live, history, part(FineTuneScope.ALL)).model.named_parameters():
        assert torch.equal(found.model.get_parameter(name), weight), name


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7: not a trained model: .*No such file"):
        load_parent(tmp_path / "7", TEXT_ENCODER)


def test_every_member_of_an_ensemble_learns(live: TrainedModel, schema: FeatureSchema) -> None:
    twice = replace(
        live, model=join_models([copy.deepcopy(live.model.members[0]) for _ in range(2)])
    )
    history = history_of(schema, WINDOW, catalogue(["new"]))
    cut = split_by_time(history.times_ms, live.until_ms, TUNING)
    settings = SETTINGS.model_copy(update={"ensemble_size": 2})
    tuning = part(FineTuneScope.ALL)
    told: list[EpochMetrics] = []
    found = fine_tune(
        twice,
        history,
        cut,
        TrainingSetup(settings, tuning, TEXT_ENCODER),
        ProgressReporter(keep_metrics(told)),
    )
    one, other = found.model.members
    before = live.model.members[0].request.query.weight
    for member in (one, other):
        assert member.architecture.items == len(found.vocabulary)
        assert member.recommendable[-1], "the new item"
        assert not torch.equal(member.request.query.weight, before)
    assert not torch.equal(one.items.weight, other.items.weight), "each by its own draws"
    assert found.outcome.gradients == 2 * tuned(live, history, tuning).outcome.gradients
    assert [told[-1].epochs, told[-1].epoch] == [2, 2]


def test_nothing_new_is_an_error(live: TrainedModel, schema: FeatureSchema) -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        tuned(live, history_of(schema, []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32}, "width 16, the settings ask for 32"),
        ({"factors": 8}, "related 64.* 8"),
        ({"ensemble_size": 4}, "ensemble_size 1, the settings ask for 4"),
    ],
)
def test_a_live_version_of_another_shape_is_an_error(
    live: TrainedModel, schema: FeatureSchema, change: dict[str, int], message: str
) -> None:
    history = history_of(schema, WINDOW)
    cut = split_by_time(history.times_ms, live.until_ms, TUNING)
    with pytest.raises(DataError, match=message):
        fine_tune(
            live,
            history,
            cut,
            TrainingSetup(SETTINGS.model_copy(update=change), TUNING, TEXT_ENCODER),
        )


def test_more_items_change_no_score_of_the_others(
    live: TrainedModel, schema: FeatureSchema
) -> None:
    history = history_of(schema, WINDOW, catalogue([f"new {at}" for at in range(200)]))
    vocabulary = next_vocabulary(live, history, 1)
    model = expand_vocabulary(live, vocabulary, history, SETTINGS, TEXT_ENCODER).eval()
    more = replace(live, model=model, vocabulary=vocabulary)
    batch = next(held_batches(live, history).epoch(4, np.random.default_rng(0)))
    grew = next(held_batches(more, history).epoch(4, np.random.default_rng(0)))
    known = len(live.vocabulary)
    torch.testing.assert_close(
        batch_scores(more.model, grew)[:, :known], batch_scores(live.model, batch)
    )


def test_every_request_finds_the_trends_of_its_time(schema: FeatureSchema) -> None:
    """Those right after an earlier instant too, whatever of that is learned."""
    history = EventHistory(schema, FILMS)
    times = [0, 100, 100, 100, 300]
    history.extend(
        [
            msgspec.structs.replace(
                event, user_id="u", event_id=str(at), timestamp=START_MS + times[at] * STEP_MS
            )
            for at, event in enumerate(WINDOW[:5])
        ]
    )
    vocabulary = Vocabulary([item.item_id for item in FILMS])
    columns = history.examples(vocabulary)
    chosen = np.arange(5) == 3
    batches = build_batches(chosen, columns, history, vocabulary, SETTINGS)
    found = batches.trends.times_ms
    snapshot_ms = SETTINGS.trend_snapshot_ms
    for time_ms in (batches.at_last_ms[1], columns.times_ms[3]):
        assert time_ms // snapshot_ms * snapshot_ms in found
