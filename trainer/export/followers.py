"""What is taken with a person's newest events, in the two ways that a graph can have it.

B batch, R newest events, K neighbours, N items, W wanted items.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from trainer.network import cooccurrence_rows


class CooccurrenceTerm(Protocol):
    """What the newest events of a batch of people are taken with."""

    def added_to(self, scores: Tensor, near: Tensor) -> Tensor:
        """The scores, float[B, N], with what each item gains; `near` is float[B, R]."""

    def of(self, wanted: Tensor) -> Tensor:
        """What each event gives each wanted item, float[B, R, W]; `wanted` is int64[B, W]."""


class DenseCooccurrence:
    """A row over all items for each event: nothing is summed where it is put.

    TensorRT can build it. It costs R times N numbers a person.
    """

    def __init__(self, items: Tensor, neighbours: Tensor, weights: Tensor, count: int) -> None:
        self._rows = cooccurrence_rows(items, neighbours, weights, count)

    def added_to(self, scores: Tensor, near: Tensor) -> Tensor:
        return scores + (near[:, None] @ self._rows)[:, 0]

    def of(self, wanted: Tensor) -> Tensor:
        return self._rows.gather(2, wanted[:, None, :].expand(-1, self._rows.shape[1], -1))


class SparseCooccurrence:
    """The neighbours themselves, added where they belong: a scatter with a sum.

    ONNX Runtime runs it in a fraction of the time; TensorRT builds none.
    """

    def __init__(self, items: Tensor, neighbours: Tensor, weights: Tensor, count: int) -> None:
        self._neighbours, self._weights = neighbours[items].long(), weights[items]
        self._count = count

    def added_to(self, scores: Tensor, near: Tensor) -> Tensor:
        gains = near[:, :, None] * self._weights
        return scores.scatter_add(1, self._neighbours.flatten(1), gains.flatten(1))

    def of(self, wanted: Tensor) -> Tensor:
        batch, events, _ = self._neighbours.shape
        # Where in `wanted` an item is, from 1; 0: nowhere. One of several places stands for all.
        places = torch.arange(1, wanted.shape[1] + 1, device=wanted.device).expand_as(wanted)
        nowhere = torch.zeros((batch, self._count), dtype=torch.int64, device=wanted.device)
        place = nowhere.scatter(1, wanted, places)
        found = place.gather(1, self._neighbours.flatten(1)).view_as(self._neighbours)
        size = (batch, events, wanted.shape[1] + 1)
        rows = torch.zeros(size, dtype=self._weights.dtype, device=wanted.device)
        rows = rows.scatter(2, found, self._weights)
        return rows.gather(2, place.gather(1, wanted)[:, None, :].expand(-1, events, -1))
