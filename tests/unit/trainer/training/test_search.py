"""A search tries the present settings first, ends what is behind, and goes on from its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from headwater_client.errors import DataError, SettingsError
from headwater_client.events import Item

from features.schema import FeatureSchema, Float32Array
from trainer.datasets import Log
from trainer.network import TrainedModel, TrainingOutcome
from trainer.progress import EpochMetrics, ProgressReporter
from trainer.settings import TrainerSettings
from trainer.text import TextEncoder
from trainer.training import TrainingSetup
from trainer.training import search as searching
from trainer.training.search import SearchOptions, SearchProgress, search, search_space

SETTINGS = TrainerSettings(width=64, learning_rate=0.002, epochs=3, batch_size=4, threads=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[TrainerSettings]:
    """Trainings that take no time: the less dropout, the better."""
    tried: list[TrainerSettings] = []

    def train(
        log: Log,
        schema: FeatureSchema,
        setup: TrainingSetup,
        progress: ProgressReporter,
    ) -> TrainedModel:
        settings = setup.settings
        tried.append(settings)
        for epoch in (1, 2, 3):
            score = 0.1 * epoch - 0.1 * settings.dropout
            metrics = EpochMetrics(epoch, 3, epoch / 3, 1.0, score, epoch_ends=True)
            progress.update(epoch / 3, metrics)
        return TrainedModel(None, None, TrainingOutcome(epoch=3, held_out=score, seconds=0.0))  # type: ignore[arg-type]

    monkeypatch.setattr(searching, "train_first_model", train)
    return tried


def test_the_present_settings_are_tried_first_and_the_best_is_first(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings]
) -> None:
    found = search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=12))
    assert len(found) == len(quick) == 12
    assert quick[0] == SETTINGS
    scores = [one.ndcg_at_10 for one in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].settings["dropout"] == min(one.dropout for one in quick)
    assert {one.settings["width"] for one in found} <= {32, 64, 96, 128}
    for one in found:
        assert SETTINGS.model_copy(update=one.settings) == quick[one.number]


def test_a_trial_behind_the_others_ends_early(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings]
) -> None:
    found = search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=15))
    pruned = [one for one in found if one.pruned]
    assert pruned
    assert {one.epoch for one in pruned} <= {2, 3}
    assert not any(one.pruned for one in found if one.number < searching.FULL_TRIALS)


def test_settings_outside_of_what_is_searched_are_no_error(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings]
) -> None:
    odd = SETTINGS.model_copy(update={"width": 12, "heads": 3, "learning_rate": 1.0})
    search(small_log, schema, TrainingSetup(odd), SearchOptions(trials=2))
    assert quick[0].dropout == odd.dropout
    assert quick[0].learning_rate < 1
    assert all(one.width % 3 == 0 for one in quick)


def test_a_search_goes_on_from_its_file(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "study.journal"
    first = search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=3, study=file))
    both = search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=5, study=file))
    assert len(quick) == 5
    assert len({one.learning_rate for one in quick}) == 5
    assert {one.number for one in first} < {one.number for one in both} == set(range(5))
    assert (
        search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=5, study=file))
        == both
    )


def test_the_same_seed_tries_the_same(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings]
) -> None:
    for _ in range(2):
        search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=4))
    assert quick[:4] == quick[4:]


def test_no_trial_begins_after_the_time_is_over(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings]
) -> None:
    assert (
        search(small_log, schema, TrainingSetup(SETTINGS), SearchOptions(trials=5, timeout_s=0.0))
        == []
    )


def test_a_study_of_another_log_or_of_nothing_is_one_line(
    small_log: Log, schema: FeatureSchema, quick: list[TrainerSettings], tmp_path: Path
) -> None:
    options = SearchOptions(trials=1, study=tmp_path / "study.journal")
    search(small_log, schema, TrainingSetup(SETTINGS), options)
    with pytest.raises(DataError, match=r"study.journal: is the study of another log, of 360 "):
        search(small_log.head(100), schema, TrainingSetup(SETTINGS), options)
    (tmp_path / "garbage").write_text("garbage\ngarbage\n")
    with pytest.raises(DataError, match="garbage: not a study") as caught:
        search(
            small_log,
            schema,
            TrainingSetup(SETTINGS),
            SearchOptions(trials=1, study=tmp_path / "garbage"),
        )
    assert "\n" not in str(caught.value)


def test_nothing_held_out_is_refused(small_log: Log, schema: FeatureSchema) -> None:
    nothing = SETTINGS.model_copy(update={"validation_fraction": 0.0})
    with pytest.raises(SettingsError, match=r"trainer.validation_fraction = 0"):
        search(small_log, schema, TrainingSetup(nothing), SearchOptions(trials=1))


class CountedReader:
    """A language model that says how often it was asked."""

    width = 2
    asked = 0

    def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
        self.asked += 1
        return np.ones((len(texts), self.width), np.float32)


def test_real_trainings_are_searched_and_texts_read_once(
    small_log: Log, schema: FeatureSchema
) -> None:
    log = dataclasses.replace(
        small_log, items=[Item(item_id=f"i{at}", title="t") for at in range(40)]
    )
    text_encoder, seen = CountedReader(), list[SearchProgress]()
    one_epoch = SETTINGS.model_copy(update={"epochs": 1})
    found = search(
        log,
        schema,
        TrainingSetup(one_epoch, text_encoder=cast("TextEncoder", text_encoder)),
        SearchOptions(trials=2),
        seen.append,
    )
    assert text_encoder.asked == 1
    assert [one.epoch for one in found] == [1, 1]
    assert (seen[0].ended, seen[0].best, seen[-1].ended) == (0, None, 1)
    assert seen[-1].best == next(one.ndcg_at_10 for one in found if one.number == 0)


def test_everything_that_is_searched_is_a_setting() -> None:
    assert set(search_space(SETTINGS)) <= set(TrainerSettings.model_fields)
