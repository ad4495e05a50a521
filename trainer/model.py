"""The network of `temporal_llm`: a causal transformer over a person's events and real time.

B batch, P requests of one history, L history, D width, H heads, N items, X width of the language
model, F user features, T trends, G gap buckets. Item 0 and type 0 are padding, time 0 is "never".

All layers but the last read every event; the last one reads the events for one request: its
query knows the gap from the newest event to the request and the person's decayed features.
So only one position of the last layer is worked out when serving, and the same weights learn
from all positions of a history at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from features.events import EventType
from features.vocabulary import PADDING

LOWEST = -1e9

# Two buckets an octave of seconds, up to two years; the last one also means "never".
GAPS_PER_OCTAVE = 2
GAP_OCTAVES = 26
GAPS = GAPS_PER_OCTAVE * GAP_OCTAVES + 1
# Whole seconds lie on bucket borders: a little more keeps rounding from moving them.
GAP_ROUNDING = 0.01


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint needs besides its weights."""

    items: int
    user_features: int
    trends: int
    history: int
    width: int
    layers: int
    heads: int
    dropout: float
    text: int = 0


@dataclass(frozen=True)
class Requests:
    """Histories, and the requests made of each: request p follows column L - P + p.

    With one request the whole history lies before it. Padding stands where nothing happened.

    Attributes:
        items, types, times_ms: int64[B, L].
        request_times_ms: int64[B, P].
        user_features: float32[B, P, F].
    """

    items: Tensor
    types: Tensor
    times_ms: Tensor
    request_times_ms: Tensor
    user_features: Tensor


@dataclass(frozen=True)
class Biases:
    """What attention adds for the places of events, whatever they are.

    Attributes:
        events: a layer each, float[H, L, L].
        request: float[P, H, L].
    """

    events: list[Tensor]
    request: Tensor


def gap_buckets(elapsed_ms: Tensor) -> Tensor:
    """The bucket of each elapsed time, int64, same shape; what lies before counts as 0."""
    seconds = (elapsed_ms.float() * 0.001).clamp(0.0, 2.0**GAP_OCTAVES - 1)
    scale = GAPS_PER_OCTAVE / math.log(2)
    return (torch.log(seconds + 1.0) * scale + GAP_ROUNDING).long()


class FeedForward(nn.Module):
    """x + W2 relu(W1 norm(x)), no wider inside: twice as wide was no better, and slower."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., D] to the same shape."""
        inner = torch.relu(self.inner(self.norm(x)))
        return x + cast(Tensor, self.dropout(self.outer(inner)))


class EventLayer(nn.Module):
    """Self-attention of the events, then a feed-forward; normalised first.

    What a bias of the three projections would add, the norm's own bias adds.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, dropout)
        # Instead of dividing the logits at every use.
        with torch.no_grad():
            self.query.weight *= (heads / width) ** 0.5

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Args: x float[B, L, D]; bias float[B, H, L, L], added to the attention's logits."""
        batch, length, width = x.shape
        # One long matrix, not a batch of small ones: so biases are part of the products.
        flat = x.reshape(batch * length, width)
        normed = self.norm(flat)
        query, key, value = (
            project(normed).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        read = torch.softmax(query @ key.transpose(2, 3) + bias, -1) @ value
        merged = self.out(read.transpose(1, 2).reshape(batch * length, width))
        return cast(Tensor, self.feed_forward(flat + self.dropout(merged)).view(x.shape))


class RequestLayer(nn.Module):
    """The events as one request reads them: each head has a query of full width.

    Keys and values are the events themselves, without projections (each would cost L times what
    the query costs). A head may also look at nothing, as it must where there is no history.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_events = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * width)
        self.nothing = nn.Parameter(torch.zeros(heads, 1))
        self.out = nn.Linear(heads * width, width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, events: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Read the events for each request.

        Args:
            x: float[B, P, D], what is known of the request.
            events: float[B, L, D].
            bias: float[B, P, H, L], added to the attention's logits.

        Returns:
            float[B, P, D], and the attention float[B, P, H, L].
        """
        batch, requests, width = x.shape
        events = self.norm_events(events)
        query = self.query(self.norm_query(x)).view(batch, requests * self.heads, width)
        logits = (query @ events.transpose(1, 2)).view(bias.shape) * width**-0.5 + bias
        nothing = self.nothing.expand(batch, requests, self.heads, 1)
        attention = torch.softmax(torch.cat([nothing, logits], -1), -1)[..., 1:]
        read = attention.reshape(batch, requests * self.heads, -1) @ events
        merged = self.out(read.view(batch, requests, self.heads * width))
        return self.feed_forward(x + self.dropout(merged)), attention


class TemporalModel(nn.Module):
    """States of people at requests, and what a state says of every item.

    An item is what its text says (a projection of the language model's vector, frozen) plus an
    identity, which only items with events in training have: `learned` says which.
    """

    texts: Tensor
    learned: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = size = architecture
        self.register_buffer("texts", torch.zeros(size.items, size.text))
        self.register_buffer("learned", torch.ones(size.items, dtype=torch.bool))
        self.text = nn.Linear(size.text, size.width, bias=False) if size.text else None
        self.items = nn.Embedding(size.items, size.width)
        self.item_bias = nn.Parameter(torch.zeros(size.items))
        self.events = nn.Embedding((len(EventType) + 1) * GAPS, size.width)
        self.layers = nn.ModuleList(
            EventLayer(size.width, size.heads, size.dropout) for _ in range(size.layers - 1)
        )
        self.distances = nn.ParameterList(
            torch.zeros(size.heads, size.history) for _ in range(size.layers)
        )
        self.request = RequestLayer(size.width, size.heads, size.dropout)
        self.request_gaps = nn.Embedding(GAPS, size.width)
        self.attention_gaps = nn.Embedding(GAPS, size.heads)
        self.no_history = nn.Parameter(torch.zeros(size.width))
        self.user = nn.Linear(size.user_features, size.width)
        self.norm = nn.LayerNorm(size.width)
        self.state = nn.Linear(size.width, size.width)
        self.trend_weights = nn.Linear(size.width, size.trends)
        self.dropout = nn.Dropout(size.dropout)
        self._initialise()

    def _initialise(self) -> None:
        for embedding in (self.items, self.events, self.request_gaps):
            nn.init.normal_(embedding.weight, std=0.05)
        if self.text is not None:
            nn.init.normal_(self.text.weight, std=0.02)
        nn.init.zeros_(self.attention_gaps.weight)
        nn.init.zeros_(self.trend_weights.weight)
        nn.init.constant_(self.trend_weights.bias, 0.3)

    def item_table(self, identity_dropout: float = 0.0) -> Tensor:
        """Every item as histories and scores see it, float[N, D].

        Args:
            identity_dropout: the share of items that must do with their text, so that it is learned
                what an item without events is worth.
        """
        known = self.learned[:, None]
        if identity_dropout:
            known = known & (torch.rand(known.shape, device=known.device) >= identity_dropout)
        table = self.items.weight * known
        return table if self.text is None else table + cast(Tensor, self.text(self.texts))

    def embed(self, table: Tensor, items: Tensor, types: Tensor, times_ms: Tensor) -> Tensor:
        """What happened, and how long after the event before it: float[B, L, D]."""
        before = torch.cat([torch.zeros_like(times_ms[:, :1]), times_ms[:, :-1]], 1)
        events = self.events(types * GAPS + gap_buckets(times_ms - before))
        return cast(Tensor, self.dropout(nn.functional.embedding(items, table) + events))

    def biases(self, length: int, requests: int) -> Biases:
        """The biases of histories of one length with so many requests."""
        place = torch.arange(length, device=self.item_bias.device)
        newest = place[length - requests :]
        events = [self._bias(layer, place, place) for layer in range(len(self.layers))]
        return Biases(events, self._bias(-1, newest, place).transpose(0, 1))

    def _bias(self, layer: int, readers: Tensor, read: Tensor) -> Tensor:
        """Each reader sees the column that it stands on and the `history - 1` before it."""
        distance = readers[:, None] - read[None, :]
        furthest = self.architecture.history - 1
        bias: Tensor = self.distances[layer][:, distance.clamp(0, furthest)]
        return bias.masked_fill((distance < 0) | (distance > furthest), LOWEST)

    def states(self, asked: Requests, biases: Biases, table: Tensor) -> tuple[Tensor, Tensor]:
        """The person at each request, float[B, P, D]; the attention float[B, P, H, L].

        Args:
            table: of `item_table`.
        """
        padding = (asked.items == PADDING).float()[:, None, None, :] * LOWEST
        x = self.embed(table, asked.items, asked.types, asked.times_ms)
        for layer, bias in zip(self.layers, biases.events, strict=True):
            x = layer(x, bias + padding)
        query = self._query(asked, x)
        elapsed = asked.request_times_ms[:, :, None] - asked.times_ms[:, None, :]
        gaps = self.attention_gaps(gap_buckets(elapsed)).transpose(2, 3)
        x, attention = self.request(query, x, biases.request + gaps + padding)
        return self.state(self.norm(x)), attention

    def _query(self, asked: Requests, x: Tensor) -> Tensor:
        """What is known of each request before it reads the events, float[B, P, D]."""
        first = asked.items.shape[1] - asked.request_times_ms.shape[1]
        empty = (asked.items[:, first:] == PADDING)[:, :, None]
        newest = torch.where(empty, self.no_history, x[:, first:])
        gap = gap_buckets(asked.request_times_ms - asked.times_ms[:, first:])
        return cast(Tensor, newest + self.request_gaps(gap) + self.user(asked.user_features))

    def scores(self, states: Tensor, table: Tensor) -> Tensor:
        """Every item's score without trends, float[..., D] to float[..., N]."""
        return states @ table.T + self.item_bias
