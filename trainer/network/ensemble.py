"""A trained model with what it takes to use it; and several models as one, their scores averaged.

Networks that start from other random weights err in other places, so their mean errs less
(L. Hansen, P. Salamon, "Neural network ensembles", IEEE PAMI 12, 1990). Averaged scores are
logarithms of probabilities averaged, up to a number a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from features.vocabulary import Vocabulary
from trainer.network.architecture import Architecture
from trainer.network.model import TemporalModel
from trainer.text import TunedTextEncoder


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
