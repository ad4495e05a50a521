"""The language model is tuned to what people take together: what changes, and what must not."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from headwater_client.errors import DataError
from headwater_client.events import Click, Item

from features.schema import FeatureSchema
from features.settings import HOUR_MS
from trainer.datasets import Log
from trainer.examples import EventHistory, split_by_time
from trainer.registry import checkpoint
from trainer.registry.checkpoint import load_parent
from trainer.settings import FineTuneSettings, TrainerSettings, TuningMode
from trainer.text import (
    TextEncoder,
    TuningResult,
    find_pairs,
    load_tuned_encoder,
    tune_language_model,
)
from trainer.text import tuning as tuning_module
from trainer.text.tuning import (
    ItemPairs,
    TuningProgress,
    contrastive_loss,
    draw_pairs,
    item_probabilities,
    misranked_fraction,
)
from trainer.training import TrainingSetup, fine_tune, train_first_model

COLOURS = ("red", "blue", "green", "white")
THINGS = tuple(f"t{at}" for at in range(12))
TEXTS = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
WIDTH, LAYERS = 16, 3
TUNED = (TuningMode.LORA, TuningMode.TOP, TuningMode.WHOLE)
SETTINGS = TrainerSettings(
    language_max_steps=60,
    language_learning_rate=3e-3,
    language_top_layers=1,
    language_lora_rank=8,
    seed=1,
    threads=1,
    width=16,
    epochs=1,
)


def saved_words(folder: Path) -> int:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *THINGS]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    return len(words)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    shape = transformers.BertConfig(
        vocab_size=saved_words(folder),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=32,
    )
    transformers.BertModel(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    shape = transformers.LlamaConfig(
        vocab_size=saved_words(folder),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=WIDTH,
    )
    transformers.LlamaModel(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_encoder(encoder: Path) -> TextEncoder:
    return TextEncoder(str(encoder))


def log_of_colours() -> Log:
    """Everyone keeps to one colour."""
    random = np.random.default_rng(3)
    events = []
    for person in range(40):
        colour = person % len(COLOURS)
        for step, thing in enumerate(random.permutation(len(THINGS))[:6]):
            at = colour * len(THINGS) + int(thing)
            time_ms = 1_700_000_000_000 + (person * 10 + step) * 60_000
            events.append(click(f"u{person}", f"i{at}", time_ms))
    return Log(events, [Item(item_id=f"i{at}", title=text) for at, text in enumerate(TEXTS)])


def click(user_id: str, item_id: str, time_ms: int) -> Click:
    return Click(
        event_id=f"{user_id}/{item_id}/{time_ms}",
        user_id=user_id,
        item_id=item_id,
        timestamp=time_ms,
    )


NUMBERS = {f"i{at}": at for at in range(len(TEXTS))}
PAIRS = find_pairs(log_of_colours().events, NUMBERS)


def tune(text_encoder: TextEncoder, tuning: TuningMode, **changes: object) -> TuningResult:
    settings = SETTINGS.model_copy(update={"language_tuning": tuning, **changes})
    return tune_language_model(text_encoder, TEXTS, PAIRS, settings)


@pytest.fixture(scope="module")
def tuned(text_encoder: TextEncoder) -> dict[TuningMode, TuningResult]:
    return {tuning: tune(text_encoder, tuning) for tuning in TUNED}


def apart(text_encoder: TextEncoder) -> float:
    """How much nearer texts of one colour are than texts of two."""
    vectors = text_encoder.embeddings(TEXTS)
    unit = vectors - vectors.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    colour = np.arange(len(TEXTS)) // len(THINGS)
    same = colour[:, None] == colour
    return float(cosines[same].mean() - cosines[~same].mean())


@pytest.mark.parametrize("tuning", TUNED)
def test_what_is_taken_together_reads_alike_new_items_too(
    tuned: dict[TuningMode, TuningResult], text_encoder: TextEncoder, tuning: TuningMode
) -> None:
    found = tuned[tuning]
    before, after = found.held_out
    assert found.step > 0
    assert after < before
    assert after < 0.25
    assert apart(found.text_encoder) > apart(text_encoder) + 0.1


def changed_names(one: TextEncoder, other: TextEncoder) -> set[str]:
    weights = dict(other.network.named_parameters())
    return {
        name
        for name, weight in one.network.named_parameters()
        if not torch.equal(weight, weights[name])
    }


def test_only_what_was_asked_for_changes(
    tuned: dict[TuningMode, TuningResult], text_encoder: TextEncoder, encoder: Path
) -> None:
    changed = {
        tuning: changed_names(text_encoder, found.text_encoder) for tuning, found in tuned.items()
    }
    last = f"encoder.layer.{LAYERS - 1}."
    assert changed[TuningMode.TOP]
    assert all(name.startswith(last) for name in changed[TuningMode.TOP])
    assert changed[TuningMode.LORA]
    assert all(name.endswith(".weight") and "layer." in name for name in changed[TuningMode.LORA])
    assert not any("LayerNorm" in name for name in changed[TuningMode.LORA])
    assert "embeddings.word_embeddings.weight" in changed[TuningMode.WHOLE]
    # The text_encoder that was given stays as it was.
    assert not changed_names(text_encoder, TextEncoder(str(encoder)))


def test_how_many_weights_can_change(
    tuned: dict[TuningMode, TuningResult], text_encoder: TextEncoder
) -> None:
    layer = text_encoder.network.encoder.layer[-1]
    assert tuned[TuningMode.TOP].trainable == sum(weight.numel() for weight in layer.parameters())
    assert tuned[TuningMode.WHOLE].trainable == sum(
        w.numel() for w in text_encoder.network.parameters()
    )
    # Query, key, value, output and the two of the feed-forward, each with two thin matrices;
    # and the pooler, which nothing reads.
    linear_layers = 6 * LAYERS + 1
    assert (
        tuned[TuningMode.LORA].trainable == linear_layers * 2 * WIDTH * SETTINGS.language_lora_rank
    )
    assert all(set(one.weights) for one in tuned.values())
    assert all("lora" in name for name in tuned[TuningMode.LORA].weights)


@pytest.mark.parametrize("tuning", TUNED)
def test_a_decoder_is_tuned_as_well(decoder: Path, tuning: TuningMode) -> None:
    text_encoder = TextEncoder(str(decoder))
    found = tune(text_encoder, tuning)
    assert found.held_out[1] < found.held_out[0]
    assert apart(found.text_encoder) > apart(text_encoder)


def test_frozen_leaves_everything_as_it_is(text_encoder: TextEncoder) -> None:
    found = tune(text_encoder, TuningMode.FROZEN)
    assert found.trainable == 0
    assert not found.weights
    np.testing.assert_array_equal(
        found.text_encoder.embeddings(TEXTS), text_encoder.embeddings(TEXTS)
    )


def test_a_tuned_reader_is_not_open_to_training(tuned: dict[TuningMode, TuningResult]) -> None:
    for found in tuned.values():
        assert not any(weight.requires_grad for weight in found.text_encoder.network.parameters())
        assert not found.text_encoder.network.training


def test_the_same_seed_gives_the_same_vectors(
    tuned: dict[TuningMode, TuningResult], text_encoder: TextEncoder
) -> None:
    expected = tuned[TuningMode.LORA].text_encoder.embeddings(TEXTS)
    again = tune(text_encoder, TuningMode.LORA).text_encoder.embeddings(TEXTS)
    # Products of half precision differ in their last digits from run to run.
    np.testing.assert_allclose(again, expected, atol=0.01)
    assert (
        np.abs(
            tune(text_encoder, TuningMode.LORA, seed=2).text_encoder.embeddings(TEXTS) - expected
        ).max()
        > 0.1
    )


def test_an_anchor_keeps_vectors_where_they_were(
    tuned: dict[TuningMode, TuningResult], text_encoder: TextEncoder
) -> None:
    held = tune(
        text_encoder, TuningMode.WHOLE, language_anchor_weight=100.0
    ).text_encoder.embeddings(TEXTS)
    free, untuned = (
        tuned[TuningMode.WHOLE].text_encoder.embeddings(TEXTS),
        text_encoder.embeddings(TEXTS),
    )
    assert np.abs(held - untuned).mean() < 0.7 * np.abs(free - untuned).mean()


def test_a_tuning_that_diverges_is_not_kept(text_encoder: TextEncoder) -> None:
    found = tune(text_encoder, TuningMode.WHOLE, language_learning_rate=1e30)
    assert found.step == 0
    np.testing.assert_array_equal(
        found.text_encoder.embeddings(TEXTS), text_encoder.embeddings(TEXTS)
    )


def test_tuning_ends_in_time_and_says_where_it_stands(
    text_encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second whenever it is looked at."""
    clock = itertools.count()
    monkeypatch.setattr(tuning_module, "monotonic", lambda: float(next(clock)))
    told: list[TuningProgress] = []
    settings = SETTINGS.model_copy(
        update={
            "language_tuning": TuningMode.TOP,
            "language_max_steps": 100_000,
            "language_max_seconds": 50.0,
            "language_learning_rate": 1e-6,
        }
    )
    found = tune_language_model(text_encoder, TEXTS, PAIRS, settings, told.append)
    assert found.seconds < 60
    assert told
    assert told[-1].step <= 50


def test_a_log_with_no_pairs_is_refused_in_a_line(text_encoder: TextEncoder) -> None:
    alone = [click(f"u{at}", f"i{at}", at) for at in range(5)]
    settings = SETTINGS.model_copy(update={"language_tuning": TuningMode.TOP})
    with pytest.raises(DataError, match="no items were taken together") as refused:
        tune_language_model(text_encoder, TEXTS, find_pairs(alone, NUMBERS), settings)
    assert "\n" not in str(refused.value)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="language_tuning"):
        TrainerSettings(language_tuning="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("tuning", TUNED)
def test_a_version_holds_what_reads_its_items(
    text_encoder: TextEncoder,
    encoder: Path,
    schema: FeatureSchema,
    tmp_path: Path,
    tuning: TuningMode,
) -> None:
    settings = SETTINGS.model_copy(update={"language_tuning": tuning})
    trained = train_first_model(
        log_of_colours(), schema, TrainingSetup(settings, text_encoder=text_encoder)
    )
    checkpoint.save(trained, tmp_path, {})
    kept = load_tuned_encoder(TextEncoder(str(encoder)), tmp_path)
    assert kept is not None
    again = kept.text_encoder
    new = ["red", "green t3 t4", *TEXTS]
    assert trained.language is not None
    expected = trained.language.text_encoder.embeddings(new)
    np.testing.assert_allclose(again.embeddings(new), expected, atol=1e-5)
    assert np.abs(expected - text_encoder.embeddings(new)).max() > 1e-3
    # The model was told what the tuned one reads, not the untuned.
    row = int(trained.vocabulary.indices_of(["i5"])[0])
    np.testing.assert_allclose(
        trained.model.texts[row, : again.width], again.embeddings([TEXTS[5]])[0], atol=1e-5
    )


def test_what_read_the_items_goes_on_to_the_next_version(
    text_encoder: TextEncoder, schema: FeatureSchema, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"language_tuning": TuningMode.TOP})
    log = log_of_colours()
    first = train_first_model(log, schema, TrainingSetup(settings, text_encoder=text_encoder))
    checkpoint.save(first, tmp_path, {})
    live = load_parent(tmp_path, text_encoder)
    history = EventHistory(schema, log.items)
    history.extend(log.events)
    history.extend(
        [click("u0", "i0", log.events[-1].timestamp + 1)], [Item(item_id="new", title="red")]
    )
    tuning = FineTuneSettings()
    slices = split_by_time(history.times_ms, live.until_ms, tuning)
    found = fine_tune(live, history, slices, TrainingSetup(settings, tuning, text_encoder))
    assert first.language is not None
    assert found.language is not None
    row = int(found.vocabulary.indices_of(["new"])[0])
    read = found.model.members[0].texts[row, : text_encoder.width]
    np.testing.assert_allclose(read, first.language.text_encoder.embeddings(["red"])[0], atol=1e-5)
    again = tmp_path / "again"
    again.mkdir()
    checkpoint.save(found, again, {})
    kept = load_tuned_encoder(text_encoder, again)
    assert kept is not None
    np.testing.assert_allclose(kept.text_encoder.embeddings(["red"]), read[None], atol=1e-5)


def test_nothing_is_kept_of_a_frozen_one(
    text_encoder: TextEncoder, schema: FeatureSchema, tmp_path: Path
) -> None:
    trained = train_first_model(
        log_of_colours(), schema, TrainingSetup(SETTINGS, text_encoder=text_encoder)
    )
    checkpoint.save(trained, tmp_path, {})
    assert trained.language is None
    assert load_tuned_encoder(text_encoder, tmp_path) is None
    assert not list(tmp_path.glob("language*"))


def test_weights_of_another_language_model_are_refused(
    tuned: dict[TuningMode, TuningResult],
    decoder: Path,
    schema: FeatureSchema,
    tmp_path: Path,
    text_encoder: TextEncoder,
) -> None:
    trained = train_first_model(
        log_of_colours(), schema, TrainingSetup(SETTINGS, text_encoder=text_encoder)
    )
    with_language = dataclasses.replace(trained, language=tuned[TuningMode.TOP])
    checkpoint.save(with_language, tmp_path, {})
    with pytest.raises(DataError, match="not of this language model"):
        load_tuned_encoder(TextEncoder(str(decoder)), tmp_path)
    (tmp_path / "language.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="not of this language model"):
        load_tuned_encoder(text_encoder, tmp_path)


def test_pairs_are_what_one_person_takes_close_together() -> None:
    minute = 60_000
    events = [
        *(click("a", f"i{at}", at * minute) for at in (0, 1, 2)),
        click("a", "i0", 3 * minute),  # again: counts once
        click("a", "i3", 2 * minute + HOUR_MS - 1),  # less than an hour after i2 alone
        click("b", "i1", 0),
        click("b", "i0", 0),
        click("b", "unknown", 0),
        click("c", "i4", 0),
    ]
    pairs = find_pairs(events, NUMBERS)
    found = dict(zip(zip(pairs.first, pairs.second, strict=True), pairs.counts, strict=True))
    assert found == {(0, 1): 2, (0, 2): 1, (1, 2): 1, (2, 3): 1}
    assert pairs.contains(np.array([1, 3, 3, 4]), np.array([0, 2, 0, 4])).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_pairs_further_than_ten_events_apart_are_none() -> None:
    pairs = find_pairs([click("a", f"i{at}", at) for at in range(13)], NUMBERS)
    assert not pairs.contains(np.array([0]), np.array([11]))[0]
    assert pairs.contains(np.array([0]), np.array([10]))[0]


def test_pairs_are_drawn_by_their_weights() -> None:
    pairs = ItemPairs(np.array([0, 0]), np.array([1, 2]), np.array([9, 1]))
    np.testing.assert_allclose(pairs.weights(), [9 / np.sqrt(90), 1 / np.sqrt(10)])
    np.testing.assert_allclose(item_probabilities(pairs, 4), [0.5, 0.375, 0.125, 0], atol=1e-9)
    one, other = draw_pairs(pairs, np.cumsum(pairs.weights()), 8000, np.random.default_rng(0))
    assert abs((np.maximum(one, other) == 1).mean() - 0.75) < 0.02
    assert abs((one == 0).mean() - 0.5) < 0.02


def test_the_loss_knows_its_wrong_answers() -> None:
    vectors = torch.eye(3)
    even, nothing = torch.zeros(2, 3), torch.zeros(3, 3, dtype=torch.bool)
    right = contrastive_loss(vectors, vectors, even, nothing, 0.5)
    expected = -torch.log(torch.exp(torch.tensor(2.0)) / (torch.exp(torch.tensor(2.0)) + 2))
    torch.testing.assert_close(right, expected)
    # Others that are pairs themselves are left out: nothing is left to be wrong.
    assert contrastive_loss(vectors, vectors, even, ~nothing, 0.5).item() == 0
    # An answer that is drawn often counts less against the right one.
    often = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    first = contrastive_loss(vectors[:1], vectors[:1], often[:, :1], nothing[:1, :1], 0.5)
    assert first.item() == 0
    assert contrastive_loss(vectors, vectors, often, nothing, 0.5) != right


def test_what_is_misplaced_does_not_depend_on_the_scale() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    one = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.9]])
    # Of the first's two wrong answers none is nearer than its partner, of the second's both are.
    assert misranked_fraction(one, other, nothing) == misranked_fraction(
        7 * one, 0.1 * other, nothing
    )
    assert 0 < misranked_fraction(one, other, nothing) < 0.5
    assert misranked_fraction(one, one, nothing) == 0
    assert misranked_fraction(torch.ones(3, 2), torch.ones(3, 2), nothing) == 0.5
    assert misranked_fraction(one, other, ~nothing) == 0
