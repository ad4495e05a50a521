"""Whether two runtimes answer alike: ties may fall either way, rounding may differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-4

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def differences(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Iterator[str]:
    """What differs between two answers of the model, a line each."""
    for name, array in expected.items():
        if found[name].shape != array.shape or found[name].dtype != array.dtype:
            yield (
                f"{name}: {found[name].dtype}{list(found[name].shape)} "
                f"instead of {array.dtype}{list(array.shape)}"
            )
            return
    for name in ("top_scores", "candidate_scores", "trend_weights"):
        # Not `>`: what is no number differs too.
        if not (furthest := _furthest(expected[name], found[name])) <= TOLERANCE:
            yield f"{name}: differs by {furthest:.2g}"
    other = expected["top_items"] != found["top_items"]
    if count := int((other & ~_tied(expected["top_scores"])).sum()):
        yield f"top_items: {count} of {other.size} differ"
    for name, compared in (("top", ~other), ("candidate", True)):
        yield from _explanations(f"{name}_explained_by", expected, found, compared)


def _furthest(expected: Array, found: Array) -> float:
    return float(np.abs(expected - found).max(initial=0))


def _tied(scores: Array) -> Array:
    """Places whose item may change with a neighbour, or with the first one left out: bool[B, K]."""
    close = np.abs(np.diff(scores, axis=1)) <= 2 * TOLERANCE
    tied = np.zeros(scores.shape, np.bool_)
    tied[:, :-1] |= close
    tied[:, 1:] |= close
    tied[:, -1] = True
    return tied


def _explanations(
    name: str, expected: Mapping[str, Array], found: Mapping[str, Array], compared: Array | bool
) -> Iterator[str]:
    """Two past events can explain an item equally well, which is rare."""
    other = (expected[name] != found[name]) & compared
    if (count := int(other.sum())) > 1 + other.size // 1000:
        yield f"{name}: {count} of {other.size} differ"
