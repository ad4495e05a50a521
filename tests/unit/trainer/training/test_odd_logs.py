"""Logs that are hardly there, or say little, train a model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from headwater_client.events import Click, Item

from features.schema import FeatureSchema, Float32Array
from tests.harness.models import offline_registry
from trainer.datasets import Log
from trainer.evaluation import evaluate
from trainer.export import answers, open_session, sample_inputs
from trainer.network import LOWEST, TrainedModel
from trainer.registry import checkpoint
from trainer.settings import TrainerSettings
from trainer.text import TextEncoder
from trainer.training import TrainingSetup, train_first_model

SETTINGS = TrainerSettings(width=8, epochs=2, batch_size=4, threads=1)
START_MS = 1_700_000_000_000


class TitleReader:
    """A language model that only counts letters."""

    width = 1

    def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
        return np.asarray([[float(len(text))] for text in texts], np.float32)


TEXT_ENCODER = cast("TextEncoder", TitleReader())


def clicks(users: Sequence[str], items: Sequence[str]) -> list[Click]:
    """A minute apart."""
    return [
        Click(event_id=f"e{at}", user_id=user, item_id=item, timestamp=START_MS + at * 60_000)
        for at, (user, item) in enumerate(zip(users, items, strict=True))
    ]


def top_items(trained: TrainedModel, schema: FeatureSchema, folder: Path) -> set[str]:
    """What a version recommends to people with all sorts of histories."""
    version = offline_registry(folder, schema, SETTINGS).write_version(trained)
    feeds = sample_inputs(len(trained.vocabulary), schema, 4, excluded=0)
    found = answers(open_session(version.folder / "model.onnx"), feeds)
    assert np.isfinite(found["top_scores"]).all()
    return {trained.vocabulary.item_ids[at] for at in found["top_items"].flatten()} - {""}


def test_one_person_is_enough(schema: FeatureSchema, tmp_path: Path) -> None:
    log = Log(clicks(["ann"] * 40, [f"i{at % 10}" for at in range(40)]), [])
    trained = train_first_model(log, schema, TrainingSetup(SETTINGS))
    assert top_items(trained, schema, tmp_path) == {f"i{at}" for at in range(10)}
    later = Log(clicks(["ann"] * 3, ["i1", "new", "newer"]), [])
    found = evaluate(trained, Log(later.events[:1], []), Log(later.events[1:], []), schema)
    assert found.model.overall.events == 2
    assert found.model.overall.hr_at_50 == 0


def test_one_event_is_enough(schema: FeatureSchema, tmp_path: Path) -> None:
    trained = train_first_model(Log(clicks(["ann"], ["lamp"]), []), schema, TrainingSetup(SETTINGS))
    assert top_items(trained, schema, tmp_path) == {"lamp"}
    assert trained.outcome.held_out == 0


@pytest.mark.parametrize("text_encoder", [None, TEXT_ENCODER])
def test_an_item_without_text_is_known_by_its_events(
    schema: FeatureSchema, tmp_path: Path, text_encoder: TextEncoder | None
) -> None:
    log = Log(
        clicks([f"u{at % 5}" for at in range(40)], [f"i{at % 8}" for at in range(40)]),
        [
            Item(item_id="i0", title="lamp"),
            Item(item_id="i1"),
            Item(item_id="unseen", title="desk"),
        ],
    )
    trained = train_first_model(log, schema, TrainingSetup(SETTINGS, text_encoder=text_encoder))
    bare = trained.vocabulary.indices_of([f"i{at}" for at in range(1, 8)])
    assert trained.model.learned[bare].all()
    assert (trained.model.item_bias[bare] > LOWEST / 2).all()
    expected = {f"i{at}" for at in range(8)} | ({"unseen"} if text_encoder else set())
    assert top_items(trained, schema, tmp_path) == expected


def test_of_a_history_longer_than_the_model_s_the_newest_counts(
    schema: FeatureSchema, tmp_path: Path
) -> None:
    long = 5 * schema.settings.history_length
    log = Log(clicks(["ann"] * long + ["bob"] * 5, [f"i{at % 12}" for at in range(long + 5)]), [])
    trained = train_first_model(log, schema, TrainingSetup(SETTINGS))
    checkpoint.save(trained, tmp_path, {})
    trained = checkpoint.load(tmp_path)
    assert trained.model.architecture.history == schema.settings.history_length
    more = Log(clicks(["ann"] * (long + 1), [*(f"i{at % 11}" for at in range(long)), "i11"]), [])
    earlier, later = more.split_after(more.events[-2].timestamp)
    assert evaluate(trained, earlier, later, schema).model.overall.events == 1
