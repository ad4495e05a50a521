"""Training from nothing, and the step from one version to the next."""

from trainer.training.fine_tune import fine_tune
from trainer.training.fit import TrainingInputs, held_out_ndcg
from trainer.training.from_scratch import HoldoutRule, TrainingSetup, train_first_model
from trainer.training.search import track

__all__ = [
    "HoldoutRule",
    "TrainingInputs",
    "TrainingSetup",
    "fine_tune",
    "held_out_ndcg",
    "track",
    "train_first_model",
]
