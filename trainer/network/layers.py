"""The layers of the network. B batch, P requests of one history, L history, D width, H heads.

Normalised first, as in R. Xiong et al., "On Layer Normalization in the Transformer Architecture"
(ICML 2020).

The shape of a network: what the settings, the rows and the items make of it.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from features.schema import FeatureSchema, Vocabulary
from trainer.settings import ModelPart, TrainerSettings
from trainer.text import BUCKETS, TextEncoder, similarity_width

# What hides a place, or an item, from a softmax.
LOWEST = -1e9
_LN_2 = math.log(2)
# Before training, from the first head to the last: 2 to the power of these, days.
_HALF_LIVES = (-5.0, 3.0)


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
    """Self-attention of the events, which fades with the time between them, then a feed-forward.

    Each head has a half-life of its own, learned: the logits fall in proportion to the time, so the
    weights fall exponentially, as counters do (`features.decay`). What a bias of the three
    projections would add, the norm's own bias adds.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.half_lives = nn.Parameter(torch.linspace(*_HALF_LIVES, heads))
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, dropout)
        # Instead of dividing the logits at every use.
        with torch.no_grad():
            self.query.weight *= (heads / width) ** 0.5

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor, days: Tensor) -> Tensor:
        """Read the events that lie before each.

        Args:
            x: float[B, L, D].
            bias: float[H, L, L], added to the attention's logits.
            padding: float[B, 1, L], added likewise, for the event that is read.
            days: float[B, 1, L], the age of each event at one time, the same for all that read:
                a softmax does not see what is added to a whole row, so that it is not the time
                from one event to the other is no difference.
        """
        batch, length, width = x.shape
        # One long matrix, not a batch of small ones: so biases are part of the products.
        flat = x.reshape(batch * length, width)
        normed = self.norm(flat)
        three = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        split = (normed @ three.T).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        # In octaves of days: a head that forgets within the hour and one that does not in weeks.
        rates = (_LN_2 * torch.exp(-_LN_2 * self.half_lives))[:, None, None]
        of_event = padding[:, None] - rates * days[:, None]
        logits = query @ key.transpose(2, 3) + bias + of_event
        read = torch.softmax(logits, -1) @ value
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
        self.query = nn.Linear(width, heads * width)
        self.nothing = nn.Parameter(torch.zeros(heads, 1))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(heads * width, width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, events: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Read the events for each request.

        Args:
            x: float[B, P, D], what is known of the request.
            events: float[B, L, D], normalised.
            bias: float[B, P, H, L], added to the attention's logits.

        Returns:
            float[B, P, D], and the attention float[B, P, H, L].
        """
        batch, requests, width = x.shape
        logits = attention_logits(self.query(self.norm(x)), events, self.heads) + bias
        nothing = self.nothing.expand(batch, requests, self.heads, 1)
        attention = torch.softmax(torch.cat([nothing, logits], -1), -1)[..., 1:]
        read = attention.reshape(batch, requests * self.heads, -1) @ events
        merged = self.out(read.view(batch, requests, self.heads * width))
        return self.feed_forward(x + self.dropout(merged)), attention


class EventWeights(nn.Module):
    """How much each past event counts for what resembles it: a share and a size for each purpose.

    The shares of the heads are softmaxes over the events; each purpose adds them up with sizes that
    hang on the person's state.
    """

    def __init__(self, width: int, heads: int, purposes: int) -> None:
        super().__init__()
        self.heads, self.purposes = heads, purposes
        self.query = nn.Linear(width, heads * width)
        self.size = nn.Linear(width, purposes * heads)
        nn.init.normal_(self.query.weight, std=0.01)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.size.weight)

    def forward(self, asked: Tensor, state: Tensor, events: Tensor, bias: Tensor) -> Tensor:
        """The weight of each event for each purpose, float[B, P, purposes, L]; none is below 0.

        Args:
            asked: float[B, P, D], normalised.
            state: float[B, P, D], normalised.
            events: float[B, L, D], normalised.
            bias: float[B, P, H, L], added to the logits of the shares.
        """
        logits = attention_logits(self.query(asked), events, self.heads) + bias
        # Where there is nothing to look at, a softmax would look at what is hidden.
        shares = torch.softmax(logits, -1) * (bias > LOWEST / 2)
        size = torch.exp(self.size(state))
        sizes: Tensor = size.view(*size.shape[:2], self.purposes, self.heads)
        return sizes @ shares


def attention_logits(query: Tensor, events: Tensor, heads: int) -> Tensor:
    """Logits of attention to the events.

    Args:
        query: float[B, P, H * D], a query of full width for each head.
        events: float[B, L, D].

    Returns:
        float[B, P, H, L].
    """
    batch, requests, _ = query.shape
    width = events.shape[2]
    rows = query.view(batch, requests * heads, width)
    logits: Tensor = (rows @ events.transpose(1, 2)) * width**-0.5
    return logits.view(batch, requests, heads, events.shape[1])


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
    alike: int = 0
    related: int = 0
    neighbours: int = 0
    identity: bool = True
    time: bool = True
    decay: bool = True
    # Versions that do not say it know click and purchase.
    event_types: int = 2


def architecture_of(
    vocabulary: Vocabulary,
    schema: FeatureSchema,
    settings: TrainerSettings,
    text_encoder: TextEncoder | None = None,
) -> Architecture:
    """The shape of a model for these items and rows, and texts read by this language model."""
    counts = ModelPart.COOCCURRENCE not in settings.ablate
    return Architecture(
        items=len(vocabulary),
        user_features=schema.user_feature_count,
        trends=schema.trend_count,
        history=min(
            settings.history or schema.settings.history_length, schema.settings.history_length
        ),
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
        text=text_encoder.width + BUCKETS if text_encoder else 0,
        alike=similarity_width(text_encoder) if text_encoder else 0,
        related=settings.factors if counts else 0,
        neighbours=min(NEIGHBOURS, len(vocabulary)) if counts else 0,
        identity=ModelPart.IDENTITY not in settings.ablate,
        time=ModelPart.TIME not in settings.ablate,
        decay=ModelPart.DECAY not in settings.ablate,
        event_types=len(schema.event_codes),
    )


NEIGHBOURS = 128
