"""Items are read as text: what has no event yet is known by what is written of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import transformers
from headwater_client.errors import SettingsError
from headwater_client.events import Click, Item

from features.schema import FIRST_ITEM, FeatureSchema, Float32Array
from trainer.datasets import Log, item_text
from trainer.export import ScoringGraph, answers, export, open_session, sample_inputs
from trainer.settings import TrainerSettings
from trainer.text import TextEncoder, load_text_encoder
from trainer.training import TrainingSetup, train_first_model

KINDS = ("red", "blue")
PER_KIND = 12


class KindReader:
    """A language model that only tells kinds apart; the real one is tested below."""

    width = len(KINDS)

    def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
        rows = [[float(kind in text) for kind in KINDS] for text in texts]
        return np.asarray(rows, np.float32)


TEXT_ENCODER = cast("TextEncoder", KindReader())
SETTINGS = TrainerSettings(
    width=16, epochs=20, batch_size=4, learning_rate=0.01, threads=1, patience=20
)


def items() -> list[Item]:
    there = [
        Item(item_id=f"{kind}-{at}", title=f"{kind} thing") for kind in KINDS for at in range(14)
    ]
    return [*there, Item(item_id="bare")]


@pytest.fixture(scope="module")
def log() -> Log:
    """Everyone keeps to one kind; of each kind two items are never taken."""
    random = np.random.default_rng(3)
    events = []
    for person in range(60):
        kind = KINDS[person % 2]
        for step, at in enumerate(random.permutation(PER_KIND)[:8]):
            time_ms = 1_700_000_000_000 + (person * 10 + step) * 60_000
            item = f"{kind}-{at}"
            event = Click(
                event_id=f"{person}/{step}", user_id=f"u{person}", item_id=item, timestamp=time_ms
            )
            events.append(event)
    return Log(events, items())


def test_an_item_without_events_is_recommended_by_its_text(
    log: Log, schema: FeatureSchema, tmp_path: Path
) -> None:
    trained = train_first_model(log, schema, TrainingSetup(SETTINGS, text_encoder=TEXT_ENCODER))
    vocabulary, model = trained.vocabulary, trained.model
    new = {kind: vocabulary.indices_of([f"{kind}-12", f"{kind}-13"]) for kind in KINDS}
    assert not model.learned[np.concatenate(list(new.values()))].any()
    path = tmp_path / "model.onnx"
    export(model, schema, path)
    for kind, other in (KINDS, KINDS[::-1]):
        feeds = sample_inputs(len(vocabulary), schema, 1, excluded=0)
        history = vocabulary.indices_of([f"{kind}-{at % PER_KIND}" for at in range(8)])
        feeds["item_indices"] = history[None, -feeds["item_indices"].shape[1] :]
        feeds["candidate_items"] = np.concatenate([new[kind], new[other]])[None]
        scores = answers(open_session(path), feeds)["candidate_scores"][0]
        assert scores[:2].min() > scores[2:].max()


def test_an_item_without_events_and_text_is_not_in_the_vocabulary(
    log: Log, schema: FeatureSchema
) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1})
    with_text = train_first_model(
        log, schema, TrainingSetup(few, text_encoder=TEXT_ENCODER)
    ).vocabulary
    without = train_first_model(log, schema, TrainingSetup(few)).vocabulary
    assert set(with_text.item_ids) - set(without.item_ids) == {
        f"{kind}-{at}" for kind in KINDS for at in (12, 13)
    }


def test_what_was_only_held_out_and_has_no_text_is_not_recommended(
    log: Log, schema: FeatureSchema
) -> None:
    last = log.events[-1]
    late = Click(event_id="x", user_id="u1", item_id="late", timestamp=last.timestamp + 60_000)
    more = Log([*log.events, late], [])
    trained = train_first_model(
        more, schema, TrainingSetup(SETTINGS.model_copy(update={"epochs": 1}))
    )
    feeds = sample_inputs(len(trained.vocabulary), schema, 4, excluded=0)
    names = ("item_indices", "event_types", "event_times_ms", "request_time_ms", "user_features")
    tensors = [torch.from_numpy(feeds[name]) for name in (*names, "candidate_items")]
    top = ScoringGraph(trained.model)(*tensors, torch.from_numpy(feeds["excluded_items"]))[0]
    assert int(trained.vocabulary.indices_of(["late"])[0]) not in top.flatten().tolist()


def test_identities_are_dropped_at_random(log: Log, schema: FeatureSchema) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1})
    model = train_first_model(log, schema, TrainingSetup(few, text_encoder=TEXT_ENCODER)).model
    text_only = model.all_items(identity_dropout=0.999_999)
    assert model.text is not None
    torch.testing.assert_close(text_only.vectors, model.text(model.texts))
    assert not text_only.known.any()
    assert not torch.equal(model.all_items().vectors, text_only.vectors)
    assert torch.equal(model.all_items().known, model.learned)
    some = model.all_items(identity_dropout=0.5).known
    assert 0 < int(some.sum()) < int(model.learned.sum())


def test_a_version_says_which_items_it_has_learned(log: Log, schema: FeatureSchema) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1})
    trained = train_first_model(log, schema, TrainingSetup(few, text_encoder=TEXT_ENCODER))
    vocabulary = trained.vocabulary
    others = {
        name
        for name, known in zip(vocabulary.item_ids, vocabulary.learned, strict=True)
        if not known
    }
    assert others == {f"{kind}-{at}" for kind in KINDS for at in (12, 13)}
    assert vocabulary.learned[2:].tolist() == trained.model.learned[2:].tolist()


def test_of_an_item_without_events_nothing_is_counted(log: Log, schema: FeatureSchema) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1})
    model = train_first_model(log, schema, TrainingSetup(few, text_encoder=TEXT_ENCODER)).model
    new = FIRST_ITEM + (~model.learned[FIRST_ITEM:]).nonzero()[:, 0]
    assert len(new) == 4
    # A product of matrices leaves a rounding.
    assert model.factors[new].abs().max() < 1e-5
    assert not model.neighbour_weights[new].any()
    assert not model.neighbour_weights[torch.isin(model.neighbours, new)].any()
    assert model.described[new].any(1).all()
    assert model.neighbour_weights[FIRST_ITEM:].any()
    assert model.factors[FIRST_ITEM:].any()


def test_a_log_without_a_catalogue_is_learned_though_texts_can_be_read(
    log: Log, schema: FeatureSchema
) -> None:
    few = SETTINGS.model_copy(update={"epochs": 1})
    model = train_first_model(
        Log(log.events, []), schema, TrainingSetup(few, text_encoder=TEXT_ENCODER)
    ).model
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder in the files that `transformers` reads."""
    folder = tmp_path_factory.mktemp("weights")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "thing"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    transformers.BertModel(shape).save_pretrained(folder)
    return folder


def test_a_text_has_one_vector_whatever_it_is_read_with(weights: Path, tmp_path: Path) -> None:
    text_encoder = load_text_encoder(str(weights), tmp_path)
    assert text_encoder is not None
    texts = ["red thing", "", "blue"]
    together = text_encoder.embeddings(texts)
    assert together.shape == (3, text_encoder.width)
    assert together.dtype == np.float32
    alone = np.concatenate([text_encoder.embeddings([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert not together[1].any()
    assert np.abs(together[0] - together[2]).max() > 1e-3
    assert text_encoder.embeddings([]).shape == (0, text_encoder.width)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"trainer\.language_model = '.*nowhere'"):
        load_text_encoder(str(tmp_path / "nowhere"), tmp_path)
    for name in ("bert-base-uncased", "bert-base-uncased@main", f"@{40 * 'a'}"):
        with pytest.raises(SettingsError, match="or NAME@COMMIT of the hub") as caught:
            load_text_encoder(name, tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_text_encoder(str(tmp_path / "empty"), tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_damaged_weights_are_one_line(weights: Path, tmp_path: Path, kept: float) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(weights, damaged)
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[: int(kept * len(whole))] or b"garbage")
    with pytest.raises(SettingsError, match=r"'.*damaged': cannot be loaded: ") as caught:
        load_text_encoder(str(damaged), tmp_path)
    assert "\n" not in str(caught.value)


def test_no_language_model_is_a_choice(tmp_path: Path) -> None:
    assert load_text_encoder("", tmp_path) is None


def test_a_text_says_what_is_known() -> None:
    lamp = Item(
        item_id="1",
        title="Desk lamp",
        brand="Lux",
        category=["lighting", "office"],
        attributes={"watts": 7},
        description="Warm light.",
    )
    assert item_text(lamp) == "Desk lamp. Lux. lighting, office. watts: 7. Warm light."
    assert item_text(Item(item_id="2")) == ""
