"""The network of `temporal_llm`, ensembles of it, and the scores of its requests."""

from trainer.network.devices import select_device, to_device
from trainer.network.layers import LOWEST, NEIGHBOURS, Architecture, architecture_of
from trainer.network.model import (
    NEWEST,
    PARTS,
    AttentionBiases,
    Ensemble,
    EpochOutcome,
    Model,
    RequestStates,
    TemporalModel,
    TrainedModel,
    TrainingOutcome,
    cooccurrence_rows,
    join_models,
)
from trainer.network.scoring import (
    VisibleCooccurrence,
    batch_scores,
    score_parts,
    score_requests,
    trend_scores,
)

__all__ = [
    "LOWEST",
    "NEIGHBOURS",
    "NEWEST",
    "PARTS",
    "Architecture",
    "AttentionBiases",
    "Ensemble",
    "EpochOutcome",
    "Model",
    "RequestStates",
    "TemporalModel",
    "TrainedModel",
    "TrainingOutcome",
    "VisibleCooccurrence",
    "architecture_of",
    "batch_scores",
    "cooccurrence_rows",
    "join_models",
    "score_parts",
    "score_requests",
    "select_device",
    "to_device",
    "trend_scores",
]
