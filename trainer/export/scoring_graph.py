"""What is exported: `temporal_llm` with the inputs and outputs of `features.inputs`.

J members, B batch, L history, R newest events, X excluded items, C candidates, K top items,
N items, T trends, D width, A width of what items are alike by, W wanted items, S directions that
explain.

What items are alike by (A) and who takes them (G wide) is in a graph whole, or in fewer numbers:
a and g of the two together.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from features.inputs import TOP_ITEMS
from features.schema import FIRST_ITEM, PADDING
from trainer.examples.batches import Requests
from trainer.network import LOWEST, NEWEST, AttentionBiases, Model, RequestStates, cooccurrence_rows

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


Outputs = tuple[Tensor, ...]

# So many principal directions stand for what an event adds to an item's score by the attention to
# it, by likeness and by who else took it: enough to tell which event adds most, at a tenth of the
# cost of all. What follows it in sessions is exact.
ATTENDED, ALIKE, RELATED = 8, 16, 8
# Of events that add the same the newest is named, whatever rounding says.
NEWER = 1e-5


class CooccurrenceTerm(Protocol):
    """What the newest events of a batch of people are taken with."""

    def add_to(self, scores: Tensor, near: Tensor) -> Tensor:
        """The scores, float[B, N], with what each item gains; `near` is float[B, R]."""

    def gather(self, wanted: Tensor) -> Tensor:
        """What each event gives each wanted item, float[B, R, W]; `wanted` is int64[B, W]."""


class DenseCooccurrence:
    """A row over all items for each event: nothing is summed where it is put.

    TensorRT can build it. It costs R times N numbers a person.
    """

    def __init__(self, items: Tensor, neighbours: Tensor, weights: Tensor, count: int) -> None:
        self._rows = cooccurrence_rows(items, neighbours, weights, count)

    def add_to(self, scores: Tensor, near: Tensor) -> Tensor:
        return scores + (near[:, None] @ self._rows)[:, 0]

    def gather(self, wanted: Tensor) -> Tensor:
        return self._rows.gather(2, wanted[:, None, :].expand(-1, self._rows.shape[1], -1))


class SparseCooccurrence:
    """The neighbours themselves, added where they belong: a scatter with a sum.

    ONNX Runtime runs it in a fraction of the time; TensorRT builds none.
    """

    def __init__(self, items: Tensor, neighbours: Tensor, weights: Tensor, count: int) -> None:
        self._neighbours, self._weights = neighbours[items].long(), weights[items]
        self._count = count

    def add_to(self, scores: Tensor, near: Tensor) -> Tensor:
        gains = near[:, :, None] * self._weights
        return scores.scatter_add(1, self._neighbours.flatten(1), gains.flatten(1))

    def gather(self, wanted: Tensor) -> Tensor:
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


class ScoringGraph(nn.Module):
    """One request a person: the top items, candidates, explanations and trend weights."""

    event_biases: Tensor
    request_bias: Tensor
    near_bias: Tensor
    alike_bias: Tensor
    item_bias: Tensor
    tables: Tensor
    explaining: Tensor
    explained: Tensor
    weighed_by: Tensor
    newer: Tensor

    def __init__(
        self,
        model: Model,
        followers: type[DenseCooccurrence | SparseCooccurrence] = DenseCooccurrence,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        self.model, self.followers = model.eval(), followers
        self.architecture = model.architecture
        history = model.architecture.history
        newest = torch.full((1,), history - 1)
        with torch.no_grad():
            biases = [member.biases(history, newest) for member in model.members]
            # The language model has had its say: the graph holds what came of it.
            items = [member.all_items() for member in model.members]
            self.register_buffer(
                "event_biases", torch.stack([torch.stack(one.events) for one in biases])
            )
            self.register_buffer("request_bias", torch.stack([one.request for one in biases]))
            self.register_buffer("near_bias", torch.stack([one.session for one in biases]))
            self.register_buffer("alike_bias", torch.stack([one.content for one in biases]))
            bias = torch.stack([one.bias for one in items]).mean(0)
            self.register_buffer("item_bias", _recommendable(bias))
            self.register_buffer("tables", torch.stack([one.vectors for one in items]))
            self.likeness = Likeness(model, widths)
            explaining, explained, weighed_by = explanations(model)
            self.register_buffer("explaining", explaining)
            self.register_buffer("explained", explained)
            self.register_buffer("weighed_by", weighed_by)
            self.register_buffer("newer", NEWER * torch.arange(history))

    def forward(  # noqa: PLR0913 (the inputs of the graph)
        self,
        item_indices: Tensor,
        event_types: Tensor,
        event_times_ms: Tensor,
        request_time_ms: Tensor,
        user_features: Tensor,
        candidate_items: Tensor,
        excluded_items: Tensor,
    ) -> Outputs:
        """Outputs in the order of `features.inputs.graph_outputs`."""
        # What is older than the model's history is not read.
        newest = self.architecture.history
        items = item_indices[:, -newest:]
        asked = Requests.from_histories(
            items,
            event_types[:, -newest:],
            event_times_ms[:, -newest:],
            request_time_ms,
            user_features,
        )
        readings = self._readings(asked)
        reading = mean_reading(readings)
        followers = self._followers(items)
        profile = self._profile(readings, reading, items)
        sums = self._sums(readings, reading, profile, followers)
        scores = sums[-1]
        top_scores, top_items = self._top(scores, excluded_items)
        wanted = torch.cat([top_items, candidate_items], 1)
        explained_by = self._explained_by(wanted, items, reading, followers)
        # Padding stands on the left: a history without a last event has none.
        unread = item_indices.shape[1] - items.shape[1]
        parts = self._parts(sums, profile, wanted)
        explained_by = torch.where(items[:, -1:] == PADDING, -1, explained_by + unread)
        return (
            top_items,
            top_scores,
            explained_by[:, :TOP_ITEMS],
            scores.gather(1, candidate_items),
            explained_by[:, TOP_ITEMS:],
            reading.trend_weights[:, 0] * float(self.architecture.decay),
            parts[:, :TOP_ITEMS],
            parts[:, TOP_ITEMS:],
        )

    def _readings(self, asked: Requests) -> list[RequestStates]:
        """What each member makes of the people."""
        tables, length = self.tables.unbind(0), asked.items.shape[1]
        return [
            member.encode(asked, self._biases(at, length), tables[at])
            for at, member in enumerate(self.model.members)
        ]

    def _biases(self, member: int, length: int) -> AttentionBiases:
        events = self.event_biases[member, :, :, :length, :length]
        return AttentionBiases(
            list(events.unbind(0)),
            self.request_bias[member, :, :, -length:],
            self.near_bias[member, :, :, -length:],
            self.alike_bias[member, :, :, -length:],
        )

    def _followers(self, items: Tensor) -> CooccurrenceTerm | None:
        """What is taken with each of the newest events; None where not counted."""
        size, known = self.architecture, self.model.members[0]
        if not size.neighbours:
            return None
        newest = items[:, -NEWEST:]
        return self.followers(newest, known.neighbours, known.neighbour_weights, size.items)

    def _profile(
        self, readings: Sequence[RequestStates], reading: RequestStates, items: Tensor
    ) -> Tensor | None:
        """What the past adds up to, float[B, a + c]; None where nothing is alike or related."""
        if not (self.architecture.alike or self.architecture.related):
            return None
        return self.likeness.sum_up(readings, reading.collaborative_weights, items)

    def _sums(
        self,
        readings: Sequence[RequestStates],
        reading: RequestStates,
        profile: Tensor | None,
        followers: CooccurrenceTerm | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every item's score without trends as it comes together, float[B, N] each.

        By taste and the item's own bias; with likeness; with co-occurrence: the last is the score.
        `reading` is the mean of the readings.
        """
        pairs = zip(readings, self.tables.unbind(0), strict=True)
        tastes = [one.states[:, 0] @ table.T for one, table in pairs]
        own = liked = _mean(tastes) + self.item_bias
        if profile is not None:
            liked = own + profile @ self.likeness.kinds.T
        if followers is None:
            return own, liked, liked
        return own, liked, followers.add_to(liked, reading.session_weights[:, 0, -NEWEST:])

    def _parts(self, sums: Sequence[Tensor], profile: Tensor | None, wanted: Tensor) -> Tensor:
        """What each wanted item's score is the sum of, float[B, W, `SCORE_PARTS`].

        Differences of the sums that the score was made by, whatever precision it was made in. Only
        who else took the past ones is multiplied anew, for the wanted items alone: a server
        computes this for everybody, asked or not.

        Args:
            sums: as of `_sums`.
        """
        own, liked, score = (each.gather(1, wanted) for each in sums)
        prior = self.item_bias[wanted]
        collaborative = torch.zeros_like(prior)
        if profile is not None and self.architecture.related:
            width = self.likeness.width
            taken = self.likeness.kinds[:, width:]
            collaborative = (taken[wanted] @ profile[:, width:, None])[:, :, 0]
        content = liked - own - collaborative
        return torch.stack([own - prior, prior, content, score - liked, collaborative], 2)

    def _top(self, scores: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The K best scores and items of each row; padding where there are no more."""
        lowest = torch.full_like(excluded, LOWEST, dtype=scores.dtype)
        scores = scores.scatter(1, excluded, lowest)
        missing = TOP_ITEMS - self.architecture.items
        if missing > 0:
            scores = nn.functional.pad(scores, (0, missing), value=LOWEST)
        top_scores, top_items = scores.topk(TOP_ITEMS, dim=1)
        return top_scores, torch.where(top_scores > LOWEST / 2, top_items, PADDING)

    def _explained_by(
        self,
        wanted: Tensor,
        items: Tensor,
        reading: RequestStates,
        followers: CooccurrenceTerm | None,
    ) -> Tensor:
        """The column of the event that explains each wanted item best, int64[B, W].

        It is the event without which the item would fall most beside the best K: what the event
        adds to the item, less what it adds to them on average, and less what the other events would
        add in its place, since weights are shares of a whole.
        """
        attention = reading.attention.mean(2)
        weights = torch.cat(
            [attention, reading.content_weights, reading.collaborative_weights], 1
        ).transpose(1, 2)
        past = relative_to_mean(self.explaining[items], weights @ self.weighed_by)
        added = self.explained[wanted] @ past.transpose(1, 2)
        if followers is not None:
            added = _with_newest(added, session_terms(wanted, reading, followers))
        newer = self.newer[-items.shape[1] :]
        beside = added[:, :TOP_ITEMS].mean(1)
        added = added + torch.where(items == PADDING, LOWEST, newer - beside)[:, None, :]
        return added.argmax(2)


def mean_reading(readings: Sequence[RequestStates]) -> RequestStates:
    """What several members make of a person, on average. Their states have nothing in common."""
    if len(readings) == 1:
        return readings[0]
    return RequestStates(
        torch.cat([one.states for one in readings], 2),
        torch.cat([one.attention for one in readings], 2),
        _mean([one.session_weights for one in readings]),
        _mean([one.content_weights for one in readings]),
        _mean([one.collaborative_weights for one in readings]),
        _mean([one.trend_weights for one in readings]),
    )


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean(0)


def session_terms(wanted: Tensor, reading: RequestStates, followers: CooccurrenceTerm) -> Tensor:
    """What the newest events add by what is taken with them, float[B, W, R]."""
    weights = reading.session_weights[:, 0, -NEWEST:, None]
    return relative_to_mean(followers.gather(wanted), weights).transpose(1, 2)


def _with_newest(added: Tensor, newest: Tensor) -> Tensor:
    """The sum, of float[B, W, L] and float[B, W, R] for the last R columns."""
    return torch.cat([added[:, :, :-NEWEST], added[:, :, -NEWEST:] + newest], 2)


def relative_to_mean(values: Tensor, weights: Tensor) -> Tensor:
    """What each event adds, less what the others would in its place: float[B, L, S].

    Args:
        values: float[B, L, S], of each event.
        weights: float[B, L, S] or float[B, L, 1]; not below 0.
    """
    mean = (weights * values).sum(1, keepdim=True) / (weights.sum(1, keepdim=True) + 1e-9)
    return weights * (values - mean)


def explanations(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """What stands for the parts of a score that explain it.

    Returns:
        Two tables, float[N, S], whose products are about what a past item adds to a wanted one;
        float[3, S], 1 where a direction is weighed by attention, likeness, or who else took it.
    """
    members, first = model.members, model.members[0]
    vectors = torch.cat([one.all_items().vectors for one in members], 1)
    parts = [
        principal(vectors, torch.full_like(vectors[0], 1 / len(members)), ATTENDED),
        principal(first.described, _mean([one.alike_scales for one in members]), ALIKE),
        principal(first.factors, torch.ones_like(first.factors[0]), RELATED),
    ]
    widths = torch.tensor([past.shape[1] for past, _ in parts])
    weighed_by = torch.eye(len(parts)).repeat_interleave(widths, 1)
    return (
        torch.cat([one[0] for one in parts], 1),
        torch.cat([one[1] for one in parts], 1),
        weighed_by,
    )


def principal(vectors: Tensor, scales: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Two narrow tables whose products are about those of `vectors * scales` and `vectors`.

    Args:
        vectors: float[N, A].
        scales: float[A].

    Returns:
        float[N, width] each, less wide where there are fewer directions.
    """
    onto, values = directions(vectors, scales, width)
    return onto * values, onto


def _recommendable(item_bias: Tensor) -> Tensor:
    """The biases with padding and the unknown item at the lowest."""
    return torch.cat([torch.full((FIRST_ITEM,), LOWEST), item_bias[FIRST_ITEM:]])
