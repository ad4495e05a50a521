"""A trained model and what it takes to use it."""

from __future__ import annotations

from dataclasses import dataclass

from features.vocabulary import Vocabulary
from trainer.network.ensemble import Model
from trainer.text import TunedTextEncoder


@dataclass(frozen=True)
class TrainingOutcome:
    """How training went: the epoch kept and its NDCG@10 on held-out events.

    `gradients` is its cost without the machine: events learned, each as often as it was.
    """

    epoch: int
    held_out: float
    seconds: float
    gradients: int = 0


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
