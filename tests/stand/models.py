"""Small models, with random weights: for what does not hang on what a model has learned."""

from __future__ import annotations

import torch

from features.rows import Layout
from features.vocabulary import Vocabulary
from trainer.first_model import Trained, architecture
from trainer.model import TemporalModel
from trainer.settings import TrainerSettings
from trainer.train import Outcome

SETTINGS = TrainerSettings(width=16)
ITEMS = 200


def untrained(layout: Layout, seed: int) -> Trained:
    torch.manual_seed(seed)
    vocabulary = Vocabulary([f"i{at}" for at in range(ITEMS)])
    model = TemporalModel(architecture(vocabulary, layout, SETTINGS))
    return Trained(model.eval(), vocabulary, Outcome(epoch=0, held_out=0.0, seconds=0.0))
