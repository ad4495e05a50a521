"""What items are alike by and who takes them, as a graph has it: all of it, or in fewer numbers.

J members, B batch, L history, N items, A width of what items are alike by, C width of who takes
them; a and c of the two together, as wide as they are or narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.network import Model, RequestStates

# A direction in which there is nothing.
_LEAST = 1e-6


class Widths(NamedTuple):
    """So many directions stand for what items are alike by, and for who takes them, at most."""

    alike: int
    related: int


class Likeness(nn.Module):
    """What a past adds up to, and what each item has of that: one product gives all scores.

    Each member weighs likeness by scales of its own; who takes an item is counted once for all.

    Args:
        widths: None for everything.
    """

    kinds: Tensor
    scales: Tensor

    def __init__(self, model: Model, widths: Widths | None) -> None:
        super().__init__()
        first, members = model.members[0], model.members
        scales = torch.stack([one.alike_scales for one in members]) / len(members)
        described, factors = first.described, first.factors
        if widths:
            described, scales = _narrow(described, scales, widths.alike)
            onto, values = directions(factors, torch.ones_like(factors[0]), widths.related)
            factors = onto * values.clamp(min=0).sqrt()
        self.width = described.shape[1]
        self.register_buffer("kinds", torch.cat([described, factors], 1))
        self.register_buffer("scales", scales)

    def sum_up(self, readings: Sequence[RequestStates], related: Tensor, items: Tensor) -> Tensor:
        """What the past adds up to, float[B, a + c]: an item gains its product with `kinds`.

        Args:
            related: float[B, 1, L], the weights that the members give on average.
            items: int64[B, L].
        """
        # All of a row is summed with all weights, and half of that left out: copying the halves
        # apart would take longer.
        weights = torch.cat([*(one.content_weights for one in readings), related], 1)
        sums = weights @ self.kinds[items]
        alike, counted = sums[:, :-1, : self.width], sums[:, -1, self.width :]
        return torch.cat([self._weigh(alike), counted], 1)

    def _weigh(self, alike: Tensor) -> Tensor:
        """The members' sums, float[B, J, a], by their scales and together: float[B, a]."""
        if self.scales.dim() == 2:
            return (alike * self.scales).sum(1)
        return (alike.transpose(0, 1) @ self.scales).sum(0)


def _narrow(vectors: Tensor, scales: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Fewer numbers an item, and what weighs them: products by these are about those by `scales`.

    Args:
        vectors: float[N, A].
        scales: float[J, A].

    Returns:
        float[N, a] and float[J, a, a].
    """
    onto, values = directions(vectors, scales.mean(0), width)
    sizes = values.abs().sqrt().clamp(min=_LEAST)
    turned = (onto / sizes).T @ vectors
    return onto * sizes, (turned * scales[:, None]) @ turned.T


def directions(vectors: Tensor, scales: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Where the products of `vectors * scales` and `vectors` are largest.

    The directions of the largest eigenvalues, above or below 0 (Eckart, Young, 1936).

    Args:
        vectors: float[N, A].
        scales: float[A].

    Returns:
        What stands for each row, float[N, width], less wide where there are fewer directions; and
        the eigenvalues, float[width].
    """
    if not vectors.shape[1]:
        return vectors, scales
    basis, inner = torch.linalg.qr(vectors)
    values, turned = torch.linalg.eigh((inner * scales) @ inner.T)
    largest = values.abs().argsort(descending=True)[:width]
    return basis @ turned[:, largest], values[largest]
