"""What the catalogue says of items, as numbers: text through a language model, and attributes.

N items, D width of the language model, A width of what items are alike by.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from headwater_client.events import Item

from features.schema import Float32Array
from features.topics import hash64
from trainer.datasets import item_text
from trainer.examples import BoolArray
from trainer.text.encoder import TextEncoder

# Attributes hashed into so many columns (Weinberger et al., "Feature Hashing", ICML 2009).
BUCKETS = 256
# So many principal directions of the texts tell which items are alike.
DIRECTIONS = 64

# A field and its value.
Token = tuple[str, str]


@dataclass(frozen=True)
class ItemDescriptions:
    """What is known of N items from the catalogue.

    Attributes:
        texts: float32[N, D + BUCKETS], what a network learns to read.
        alike: float32[N, A]; products of rows are high for items that are alike.
        has_text: bool[N], items that the catalogue says something of.
    """

    texts: Float32Array
    alike: Float32Array
    has_text: BoolArray


def describe(
    item_ids: Sequence[str],
    items: Mapping[str, Item],
    text_encoder: TextEncoder,
    on_progress: Callable[[float], None] | None = None,
) -> ItemDescriptions:
    """Describe items of a vocabulary, which has two places more than `item_ids`.

    Args:
        items: the catalogue by item id; an item that is not in it has no description.
    """
    read = _read_contents(item_ids, items, text_encoder, on_progress)
    return _to_descriptions(read, _directions(read.vectors), _rarities(read.bags))


def describe_more(
    item_ids: Sequence[str],
    items: Mapping[str, Item],
    text_encoder: TextEncoder,
    before: ItemDescriptions,
) -> ItemDescriptions:
    """Describe other items in the directions in which some are described already.

    What is learned of a direction so stays true.

    Args:
        before: of the same catalogue, by the same text_encoder.
    """
    read = _read_contents(item_ids, items, text_encoder)
    width = text_encoder.width
    directions = _project_as_before(
        read.vectors, before.texts[:, :width], before.alike[:, : min(DIRECTIONS, width)]
    )
    return _to_descriptions(
        read, directions, _rarities([list(tokens(one)) for one in items.values()])
    )


@dataclass(frozen=True)
class _ItemContents:
    """Of n items: their texts, those as float32[n, D], and what can be equal between items."""

    texts: list[str]
    vectors: Float32Array
    bags: list[list[Token]]


def _read_contents(
    item_ids: Sequence[str],
    items: Mapping[str, Item],
    text_encoder: TextEncoder,
    on_progress: Callable[[float], None] | None = None,
) -> _ItemContents:
    known = [items.get(item_id) for item_id in item_ids]
    texts = [item_text(item) if item else "" for item in known]
    bags = [list(tokens(item)) if item else [] for item in known]
    return _ItemContents(texts, text_encoder.embeddings(texts, on_progress), bags)


def _to_descriptions(
    read: _ItemContents, directions: Float32Array, rarities: Mapping[Token, float]
) -> ItemDescriptions:
    return ItemDescriptions(
        texts=np.concatenate([read.vectors, _token_counts(read.bags)], axis=1),
        alike=np.concatenate([directions, _token_weights(read.bags, rarities)], axis=1),
        has_text=np.array([bool(text) for text in read.texts]),
    )


def similarity_width(text_encoder: TextEncoder) -> int:
    """A."""
    return min(DIRECTIONS, text_encoder.width) + BUCKETS


def tokens(item: Item) -> Iterator[Token]:
    """Field and value of whatever can be equal between items.

    >>> list(tokens(Item(item_id="1", category=["Horror"], attributes={"year": 1979})))
    [('category', 'Horror'), ('year', '1979')]
    """
    if item.brand:
        yield "brand", item.brand
    for category in item.category:
        yield "category", category
    for name, value in sorted(item.attributes.items()):
        yield name, str(value)


def _bucket(token: Token) -> int:
    return int(hash64("/".join(token))) % BUCKETS


def _token_counts(bags: Sequence[Sequence[Token]]) -> Float32Array:
    found = np.zeros((len(bags), BUCKETS), np.float32)
    for row, bag in zip(found, bags, strict=True):
        row[[_bucket(token) for token in bag]] = 1
    return found


def _rarities(bags: Sequence[Sequence[Token]]) -> dict[Token, float]:
    """Inverse document frequencies.

    K. Sparck Jones, "A statistical interpretation of term specificity", 1972.
    """
    documents = Counter(token for bag in bags for token in set(bag))
    return {token: math.log((len(bags) + 1) / (n + 1)) for token, n in documents.items()}


def _token_weights(
    bags: Sequence[Sequence[Token]], rarities: Mapping[Token, float]
) -> Float32Array:
    """Rare values weigh more, and each field as much as another: float32[N, BUCKETS]."""
    found = np.zeros((len(bags), BUCKETS), np.float32)
    for row, bag in zip(found, bags, strict=True):
        for name in {name for name, _ in bag}:
            mine = [token for token in bag if token[0] == name]
            length = math.sqrt(sum(rarities[token] ** 2 for token in mine)) or 1.0
            for token in mine:
                row[_bucket(token)] += rarities[token] / length
    return found


def _directions(vectors: Float32Array) -> Float32Array:
    """The vectors in their first principal directions, of length 1 in the mean."""
    there: BoolArray = np.any(vectors, axis=1)
    found = np.zeros((len(vectors), min(DIRECTIONS, vectors.shape[1])), np.float32)
    if not there.any():
        return found
    centred = torch.from_numpy(np.where(there[:, None], vectors - vectors[there].mean(0), 0))
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[: found.shape[1]]
    reduced = (centred @ directions.T).numpy()
    reduced /= max(float(np.linalg.norm(reduced[there], axis=1).mean()), 1e-6)
    found[:, : reduced.shape[1]] = reduced
    return found


def _project_as_before(
    vectors: Float32Array, texts: Float32Array, alike: Float32Array
) -> Float32Array:
    """Other vectors in the directions that took texts to what they are alike by.

    Those are a shift and a linear map: least squares find them again.
    """
    there = np.any(texts, axis=1)
    if not there.any():
        return np.zeros((len(vectors), alike.shape[1]), np.float32)
    known = np.column_stack([texts[there], np.ones(there.sum())])
    found, *_ = np.linalg.lstsq(known, alike[there], rcond=1e-6)
    mapped = np.column_stack([vectors, np.ones(len(vectors))]) @ found
    return np.where(np.any(vectors, axis=1)[:, None], mapped, 0).astype(np.float32)
