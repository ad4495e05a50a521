"""The shape of a network: what the settings, the rows and the items make of it."""

from __future__ import annotations

from dataclasses import dataclass

from features.schema import FeatureSchema
from features.vocabulary import Vocabulary
from trainer.settings import ModelPart, TrainerSettings
from trainer.text import BUCKETS, TextEncoder, similarity_width


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
