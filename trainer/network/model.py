"""The network of `temporal_llm`: a causal transformer over a person's events and real time.

B batch, P requests of one history, L history, D width, H heads, N items, X width of the items'
texts, A width of what is alike, C width of what is related, K neighbours, R newest events,
M requests in all, F user features, T trends, G gap buckets. Item 0 and type 0 are padding, time 0
is "never".

All layers but the last read every event; the last one reads the events for one request: its
query knows the gap from the newest event to the request and the person's decayed features.
So only one position of the last layer is worked out when serving, and the same weights learn
from all positions of a history at once.

A score has five parts: the person's state times the item; the item's own bias; live trends; what
follows the newest events in sessions (`trainer.examples.cooccurrence`); what is like the past
events, in text and attributes, and by who else took them. The state says how much each part weighs.

A trained model with what it takes to use it; and several models as one, their scores averaged.

Networks that start from other random weights err in other places, so their mean errs less
(L. Hansen, P. Salamon, "Neural network ensembles", IEEE PAMI 12, 1990). Averaged scores are
logarithms of probabilities averaged, up to a number a request.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from features.inputs import SCORE_PARTS
from features.schema import PADDING, Vocabulary
from features.settings import DAY_MS
from trainer.examples.batches import Requests
from trainer.network.layers import LOWEST, Architecture, EventLayer, EventWeights, RequestLayer
from trainer.text import TunedTextEncoder

# Two buckets an octave of seconds, up to two years; the last one also means "never".
GAPS_PER_OCTAVE = 2
GAP_OCTAVES = 26
GAPS = GAPS_PER_OCTAVE * GAP_OCTAVES + 1
# Whole seconds lie on bucket borders: a little more keeps rounding from moving them.
GAP_ROUNDING = 0.01

# The newest events whose companions are looked up, and how many companions each.
NEWEST = 16
# What a score is the sum of.
PARTS = (*SCORE_PARTS, "trends")
# What the weights are before training: enough to be felt beside an untrained state.
_NEAR_SIZE, _ALIKE_SIZE, _RELATED_SIZE = 10.0, 1.0, 7.0
_NEAR_FADE, _ALIKE_FADE = (0.05, 0.3), (0.02, 0.2)


@dataclass(frozen=True)
class AttentionBiases:
    """What attention adds for the places of events, whatever they are.

    Attributes:
        events: a layer each, float[H, L, L].
        request, session, content: float[B, P, H, L], or float[P, H, L] for all alike.
    """

    events: list[Tensor]
    request: Tensor
    session: Tensor
    content: Tensor


@dataclass(frozen=True)
class RequestStates:
    """What a model makes of a person at each request.

    Attributes:
        states: float[B, P, D].
        attention: float[B, P, H, L].
        session_weights: float[B, P, L], of each event for what follows it in sessions.
        content_weights, collaborative_weights: float[B, P, L], of each event for what resembles
            it, in text and attributes, and by who took it.
        trend_weights: float[B, P, 2 * T], for known items and for others.
    """

    states: Tensor
    attention: Tensor
    session_weights: Tensor
    content_weights: Tensor
    collaborative_weights: Tensor
    trend_weights: Tensor


@dataclass(frozen=True)
class ItemTable:
    """Every item as histories and scores see it.

    Attributes:
        vectors: float[N, D].
        bias: float[N].
        known: bool[N], items that are more than what the catalogue says of them.
    """

    vectors: Tensor
    bias: Tensor
    known: Tensor


def gap_buckets(elapsed_ms: Tensor) -> Tensor:
    """The bucket of each elapsed time, int64, same shape; what lies before counts as 0."""
    seconds = (elapsed_ms.float() * 0.001).clamp(0.0, 2.0**GAP_OCTAVES - 1)
    scale = GAPS_PER_OCTAVE / math.log(2)
    return (torch.log(seconds + 1.0) * scale + GAP_ROUNDING).long()


class TemporalModel(nn.Module):
    """States of people at requests, and what a state says of every item.

    An item is what its text says (a projection of `texts`, which do not change) plus an identity,
    which only items with events in training have: `learned` says which. `described` is what
    items are alike by; `neighbours`, `neighbour_weights` and `factors` are what people do together,
    of all that was learned from (`trainer.examples.cooccurrence`). `scales` are what the parts of a
    score were multiplied by after training (`trainer.training.fit`).
    """

    texts: Tensor
    scales: Tensor
    learned: Tensor
    recommendable: Tensor
    described: Tensor
    neighbours: Tensor
    neighbour_weights: Tensor
    factors: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = size = architecture
        self._make_buffers()
        self.text = nn.Linear(size.text, size.width, bias=False) if size.text else None
        self.text_bias = nn.Linear(size.text, 1) if size.text else None
        self.items = nn.Embedding(size.items, size.width)
        self.item_bias = nn.Parameter(torch.zeros(size.items))
        self.events = nn.Embedding((size.event_types + 1) * GAPS, size.width)
        self.layers = nn.ModuleList(
            EventLayer(size.width, size.heads, size.dropout) for _ in range(size.layers - 1)
        )
        self.distances = nn.ParameterList(
            torch.zeros(size.heads, size.history) for _ in range(size.layers)
        )
        self.norm_events = nn.LayerNorm(size.width)
        self.request = RequestLayer(size.width, size.heads, size.dropout)
        self.request_gaps = nn.Embedding(GAPS, size.width)
        self.attention_gaps = nn.Embedding(GAPS, 3 * size.heads)
        self.no_history = nn.Parameter(torch.zeros(size.width))
        self.user = nn.Linear(size.user_features, size.width)
        self.norm = nn.LayerNorm(size.width)
        self.state = nn.Linear(size.width, size.width)
        self.trend_weights = nn.Linear(size.width, 2 * size.trends)
        self.near = EventWeights(size.width, size.heads, purposes=1)
        self.alike = EventWeights(size.width, size.heads, purposes=2)
        self.near_distances = nn.Parameter(_distance_decay(_NEAR_FADE, size.heads, size.history))
        self.alike_distances = nn.Parameter(_distance_decay(_ALIKE_FADE, size.heads, size.history))
        self.alike_scales = nn.Parameter(torch.ones(size.alike))
        self.dropout = nn.Dropout(size.dropout)
        self._initialise()

    def _make_buffers(self) -> None:
        size = self.architecture
        self.register_buffer("scales", torch.ones(len(PARTS)))
        self.register_buffer("texts", torch.zeros(size.items, size.text))
        self.register_buffer("learned", torch.ones(size.items, dtype=torch.bool))
        self.register_buffer("recommendable", torch.ones(size.items, dtype=torch.bool))
        self.register_buffer("described", torch.zeros(size.items, size.alike))
        shape = (size.items, size.neighbours)
        self.register_buffer("neighbours", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("neighbour_weights", torch.zeros(shape))
        self.register_buffer("factors", torch.zeros(size.items, size.related))

    def _initialise(self) -> None:
        for embedding in (self.items, self.events, self.request_gaps):
            nn.init.normal_(embedding.weight, std=0.05)
        if self.text is not None and self.text_bias is not None:
            nn.init.normal_(self.text.weight, std=0.02)
            nn.init.zeros_(self.text_bias.weight)
        nn.init.zeros_(self.attention_gaps.weight)
        nn.init.zeros_(self.trend_weights.weight)
        nn.init.constant_(self.trend_weights.bias, 0.3)
        heads = self.architecture.heads
        sizes = torch.tensor([_ALIKE_SIZE, _RELATED_SIZE]).repeat_interleave(heads)
        with torch.no_grad():
            self.near.size.bias.fill_(math.log(_NEAR_SIZE))
            self.alike.size.bias.copy_(torch.log(sizes))

    def all_items(self, identity_dropout: float = 0.0) -> ItemTable:
        """Every item.

        Args:
            identity_dropout: the share of items that must do with what the catalogue says, so that
                it is learned what an item without events is worth.
        """
        known = self.learned
        if identity_dropout:
            known = known & (torch.rand(known.shape, device=known.device) >= identity_dropout)
        own = known & self.architecture.identity
        vectors, bias = self.items.weight * own[:, None], self.item_bias * own
        if self.text is not None and self.text_bias is not None:
            vectors = vectors + cast(Tensor, self.text(self.texts))
            bias = bias + self.text_bias(self.texts)[:, 0]
        return ItemTable(vectors, bias.masked_fill(~self.recommendable, LOWEST), known)

    def embed(self, table: Tensor, items: Tensor, types: Tensor, times_ms: Tensor) -> Tensor:
        """What happened, and how long after the event before it: float[B, L, D]."""
        before = torch.cat([torch.zeros_like(times_ms[:, :1]), times_ms[:, :-1]], 1)
        events = self.events(types * GAPS + gap_buckets(times_ms - before))
        return cast(Tensor, self.dropout(nn.functional.embedding(items, table) + events))

    def biases(self, length: int, newest: Tensor) -> AttentionBiases:
        """The biases of histories of one length, for requests after these columns.

        Args:
            newest: int64[..., P]; the biases of the requests are float[..., P, H, L].
        """
        place = torch.arange(length, device=newest.device)
        own = place[:, None] - place
        events = [_distance_bias(table, own) for table in self.distances[:-1]]
        back = newest[..., None] - place
        tables = (self.distances[-1], self.near_distances, self.alike_distances)
        request, session, content = (_distance_bias(table, back).movedim(0, -2) for table in tables)
        session = session.masked_fill((back >= NEWEST)[..., None, :], LOWEST)
        return AttentionBiases(events, request, session, content)

    def encode(self, requests: Requests, biases: AttentionBiases, table: Tensor) -> RequestStates:
        """The person at each request.

        Args:
            table: float[N, D], the items' vectors.
        """
        if not self.architecture.time:
            requests = _drop_times(requests)
        padding = (requests.items == PADDING).float()[:, None, :] * LOWEST
        x = self.embed(table, requests.items, requests.types, requests.times_ms)
        ages_ms = requests.times_ms[:, -1:] - requests.times_ms
        # Float first: ONNX Runtime 1.30 clips int64 wrongly beyond the 25 days that 32 bits hold.
        days = ages_ms.float().clamp(min=0)[:, None, :] / DAY_MS
        for layer, bias in zip(self.layers, biases.events, strict=True):
            x = layer(x, bias, padding, days)
        elapsed = requests.request_times_ms[:, :, None] - requests.times_ms[:, None, :]
        gaps = self.attention_gaps(gap_buckets(elapsed)).transpose(2, 3) + padding[:, None]
        of_request, of_session, of_content = gaps.split(self.architecture.heads, 2)
        events, query = self.norm_events(x), self._query(requests, x)
        read, attention = self.request(query, events, biases.request + of_request)
        state, attending = self.norm(read), self.request.norm(query)
        session = self.near(attending, state, events, biases.session + of_session)
        content = self.alike(attending, state, events, biases.content + of_content)
        return RequestStates(
            self.state(state),
            attention,
            session[:, :, 0],
            content[:, :, 0],
            content[:, :, 1],
            self.trend_weights(state),
        )

    def _query(self, requests: Requests, x: Tensor) -> Tensor:
        """What is known of each request before it reads the events, float[B, P, D]."""
        column = requests.newest.clamp(min=0)
        empty = (requests.newest < 0) | (requests.items.gather(1, column) == PADDING)
        newest = x.gather(1, column[:, :, None].expand(-1, -1, x.shape[2]))
        newest = torch.where(empty[:, :, None], self.no_history, newest)
        time_ms = torch.where(empty, 0, requests.times_ms.gather(1, column))
        gap = gap_buckets(requests.request_times_ms - time_ms)
        # Read even where they do not count: an exported graph has all inputs.
        features = requests.user_features * float(self.architecture.decay)
        return cast(Tensor, newest + self.request_gaps(gap) + self.user(features))

    def content_profile(self, weights: Tensor, items: Tensor) -> Tensor:
        """What the past ones are like, float[B, P, A]: an item gains its product with `described`.

        Args:
            weights: float[B, P, L].
            items: int64[B, L].
        """
        return (weights @ self.described[items]) * self.alike_scales

    @property
    def learned_items(self) -> Tensor:
        """bool[N], items that have an identity."""
        return self.learned

    @property
    def members(self) -> "tuple[TemporalModel, ...]":
        """The models whose scores are averaged: this one (others: `trainer.network.model`)."""
        return (self,)

    @torch.no_grad()
    def rescale(self, scales: Mapping[str, float]) -> None:
        """Multiply each part of every score (`PARTS`) by a number above 0, which `scales` keeps."""
        for layer, part in (
            (self.state, "taste"),
            (self.text_bias, "prior"),
            (self.trend_weights, "trends"),
        ):
            if layer is not None:
                layer.weight.mul_(scales[part])
                layer.bias.mul_(scales[part])
        self.item_bias.mul_(scales["prior"])
        self.scales.mul_(torch.tensor([scales[name] for name in PARTS]).to(self.scales))
        self.near.size.bias.add_(math.log(scales["cooccurrence"]))
        both = torch.tensor([scales["content"], scales["collaborative"]])
        sizes = self.alike.size.bias
        sizes.add_(torch.log(both).repeat_interleave(self.architecture.heads).to(sizes))


def _drop_times(requests: Requests) -> Requests:
    """The same with everything at one time."""
    nothing = torch.zeros_like(requests.times_ms)
    now = torch.zeros_like(requests.request_times_ms)
    return replace(requests, times_ms=nothing, request_times_ms=now)


def collaborative_scores(weights: Tensor, items: Tensor, factors: Tensor) -> Tensor:
    """What every item gains by who else took the past ones, float[B, P, N].

    Args:
        weights: float[B, P, L].
        items: int64[B, L].
        factors: float[B, N, C].
    """
    columns = items[:, :, None].expand(-1, -1, factors.shape[2])
    return (weights @ factors.gather(1, columns)) @ factors.transpose(1, 2)


def cooccurrence_rows(items: Tensor, neighbours: Tensor, weights: Tensor, count: int) -> Tensor:
    """The companions of items as rows over all items, float[..., count].

    A scatter without a sum, which TensorRT can build: an item's neighbours differ.

    Args:
        items: int64[...].
        neighbours: int[N, K], items.
        weights: float[N, K].
        count: N.
    """
    rows = torch.zeros((*items.shape, count), dtype=weights.dtype, device=items.device)
    return rows.scatter(-1, neighbours[items].long(), weights[items])


def _distance_bias(table: Tensor, distance: Tensor) -> Tensor:
    """A bias by distance, float[H, ...], for the distances 0 to `history - 1`; others are hidden.

    Args:
        table: float[H, history].
        distance: int64[...], columns that the reader stands behind what it reads.
    """
    furthest = table.shape[1] - 1
    bias = table[:, distance.clamp(0, furthest)]
    return bias.masked_fill((distance < 0) | (distance > furthest), LOWEST)


def _distance_decay(fades: tuple[float, float], heads: int, history: int) -> Tensor:
    """Biases that fall with the distance, each head at a pace of its own: float[H, history]."""
    return -torch.linspace(*fades, heads)[:, None] * torch.arange(history)


class Ensemble(nn.Module):
    """Models of one shape, one vocabulary and one log."""

    def __init__(self, members: Sequence[TemporalModel]) -> None:
        super().__init__()
        self._members = nn.ModuleList(members)

    @property
    def members(self) -> tuple[TemporalModel, ...]:
        """The models whose scores are averaged; at least one."""
        return cast("tuple[TemporalModel, ...]", tuple(self._members))

    @property
    def architecture(self) -> Architecture:
        """The shape of each."""
        return self.members[0].architecture

    @property
    def learned_items(self) -> Tensor:
        """bool[N], items that have an identity."""
        return self.members[0].learned_items

    @property
    def recommendable(self) -> Tensor:
        """bool[N], items of which something is known."""
        return self.members[0].recommendable


Model = TemporalModel | Ensemble


def join_models(members: Sequence[TemporalModel]) -> Model:
    """The model itself where there is but one."""
    return members[0] if len(members) == 1 else Ensemble(members)


@dataclass(frozen=True)
class EpochOutcome:
    """Where training stood after an epoch.

    Attributes:
        loss: a moving mean; None where it is no finite number.
        held_out: NDCG@10 on held-out events.
        member: of an ensemble, from 1 on.
    """

    epoch: int
    loss: float | None
    held_out: float
    member: int = 1


@dataclass(frozen=True)
class TrainingOutcome:
    """How training went: the epoch kept and its NDCG@10 on held-out events.

    `gradients` is its cost without the machine: events learned, each as often as it was. `curve`
    has each epoch; a version of release 0.2.0 or before has none.
    """

    epoch: int
    held_out: float
    seconds: float
    gradients: int = 0
    curve: tuple[EpochOutcome, ...] = ()


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and what it takes to use it: item i of the model is i of the vocabulary.

    Attributes:
        until_ms: the time of the newest event that it was trained on, None where nobody knows.
        language: the language model that read its items, where that was tuned.
    """

    model: Model
    vocabulary: Vocabulary
    outcome: TrainingOutcome
    until_ms: int | None = None
    language: TunedTextEncoder | None = None
