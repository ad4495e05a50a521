"""What the catalogue says of items tells which are alike, and nothing where it says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from headwater_client.events import Item

from features.schema import Float32Array
from trainer.text import (
    BUCKETS,
    DIRECTIONS,
    ItemDescriptions,
    TextEncoder,
    describe,
    similarity_width,
)
from trainer.text.item_features import _bucket, tokens


class KindReader:
    """A language model of two words; a text of neither lies in between."""

    width = 2

    def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
        rows = [self.vector(text) if text else (0.0, 0.0) for text in texts]
        return np.asarray(rows, np.float32).reshape(-1, 2)

    def vector(self, text: str) -> tuple[float, float]:
        red, blue = "red" in text, "blue" in text
        return (float(red), float(blue)) if red or blue else (0.5, 0.5)


TEXT_ENCODER = cast("TextEncoder", KindReader())


def film(item_id: str, kind: str, year: int, title: str = "film") -> Item:
    return Item(item_id=item_id, title=title, category=[kind], attributes={"year": year})


FILMS = [
    film("a", "horror", 1979),
    film("b", "horror", 1979),
    film("c", "horror", 1995),
    film("d", "comedy", 2001),
    film("e", "comedy", 2003),
    *[film(f"other {at}", f"kind {at}", 1900 + at) for at in range(6)],
]
NAMES = ["", "", *(item.item_id for item in FILMS), "nowhere", "bare"]
CATALOGUE = {item.item_id: item for item in [*FILMS, Item(item_id="bare")]}


@pytest.fixture(scope="module")
def described() -> ItemDescriptions:
    return describe(NAMES, CATALOGUE, TEXT_ENCODER)


def product(described: ItemDescriptions, one: str, other: str) -> float:
    a, b = (described.alike[NAMES.index(name)] for name in (one, other))
    return float(a @ b)


def test_what_has_more_in_common_is_more_alike(described: ItemDescriptions) -> None:
    both, kind, nothing = (product(described, "a", name) for name in "bcd")
    assert both > kind > nothing
    assert nothing == pytest.approx(0, abs=1e-6)


def test_what_is_rare_says_more() -> None:
    common = [film(f"c{at}", "drama", 1950 + at) for at in range(9)]
    rare = [film("r0", "western", 1940), film("r1", "western", 1941)]
    both = [
        Item(item_id="both", category=["drama", "western"]),
        *common,
        *rare,
    ]
    catalogue = {item.item_id: item for item in both}
    names = list(catalogue)
    alike = describe(names, catalogue, TEXT_ENCODER).alike
    to_rare, to_common = alike[names.index("r0")] @ alike[0], alike[names.index("c0")] @ alike[0]
    assert to_rare > 1.5 * to_common > 0


def test_every_field_weighs_the_same() -> None:
    """However many values it has: a field adds 1 to the product of an item and itself."""
    many = Item(item_id="m", brand="b", category=[f"k{at}" for at in range(9)])
    catalogue = {"m": many, "other": Item(item_id="other", category=["z"])}
    alike = describe(["m", "other"], catalogue, TEXT_ENCODER).alike
    assert len({_bucket(token) for token in [*tokens(many), *tokens(catalogue["other"])]}) == 11
    assert alike[0] @ alike[0] == pytest.approx(2, rel=1e-5)
    assert alike[0] @ alike[1] == pytest.approx(0, abs=1e-6)


def test_texts_in_their_directions_tell_alike_apart() -> None:
    titles = {"r0": "red", "r1": "red too", "b0": "blue", "b1": "blue too"}
    catalogue = {name: Item(item_id=name, title=title) for name, title in titles.items()}
    alike = describe(list(titles), catalogue, TEXT_ENCODER).alike
    assert alike[0] @ alike[1] == pytest.approx(1)
    assert alike[0] @ alike[2] == pytest.approx(-1)


def test_an_item_without_text_is_zero_and_not_told(described: ItemDescriptions) -> None:
    silent = [NAMES.index(name) for name in ("", "nowhere", "bare")] + [1]
    assert not described.texts[silent].any()
    assert not described.alike[silent].any()
    assert not described.has_text[silent].any()
    assert described.has_text.sum() == len(FILMS)


def test_texts_are_vectors_and_what_an_item_has(described: ItemDescriptions) -> None:
    assert described.texts.shape == (len(NAMES), TEXT_ENCODER.width + BUCKETS)
    assert described.alike.shape == (len(NAMES), similarity_width(TEXT_ENCODER))
    assert described.texts.dtype == described.alike.dtype == np.float32
    counted = described.texts[NAMES.index("a"), TEXT_ENCODER.width :]
    assert sorted(counted.nonzero()[0]) == sorted(
        {_bucket(("category", "horror")), _bucket(("year", "1979"))}
    )
    assert set(counted.tolist()) == {0.0, 1.0}


def test_texts_are_those_that_the_reader_gives() -> None:
    catalogue = {"r": Item(item_id="r", title="red"), "b": Item(item_id="b", title="blue")}
    texts = describe(["", "", "r", "b"], catalogue, TEXT_ENCODER).texts[:, : TEXT_ENCODER.width]
    assert texts.tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]


def test_a_wide_reader_keeps_the_first_directions() -> None:
    class Wide(KindReader):
        width = DIRECTIONS + 30

        def embeddings(self, texts: Sequence[str], on_progress: object = None) -> Float32Array:
            random = np.random.default_rng(0)
            vectors = random.standard_normal((len(texts), self.width)).astype(np.float32)
            return vectors * np.array([[bool(text)] for text in texts], np.float32)

    text_encoder = cast("TextEncoder", Wide())
    found = describe(NAMES, CATALOGUE, text_encoder)
    assert similarity_width(text_encoder) == DIRECTIONS + BUCKETS == found.alike.shape[1]
    lengths = np.linalg.norm(found.alike[found.has_text, :DIRECTIONS], axis=1)
    assert lengths.mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("names", [[], ["", ""], ["", "", "a"]])
def test_next_to_nothing_can_be_described(names: list[str]) -> None:
    found = describe(names, CATALOGUE, TEXT_ENCODER)
    assert found.alike.shape == (len(names), similarity_width(TEXT_ENCODER))
    assert np.isfinite(found.alike).all()


def test_fields_with_the_same_value_are_told_apart() -> None:
    item = Item(item_id="1", brand="red", category=["red"], attributes={"colour": "red"})
    assert len({_bucket(token) for token in tokens(item)}) == 3


def test_hashing_is_the_same_in_every_process() -> None:
    code = "from trainer.text.item_features import _bucket; print(_bucket(('category', 'horror')))"
    # Another seed than that of this process.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == _bucket(("category", "horror"))
