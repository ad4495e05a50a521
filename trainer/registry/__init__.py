"""The model registry: versions of the model on disk, in Triton, and announced.

ModelRegistry  (registry.py)       makes versions and brings them live; all that publishes
├─ ModelRepository (repository)  the folder of versions, its lock, and what is staged in it
├─ VersionWriter   (staging)     writes the next version, whole or not at all
├─ ModelServer     (model_server) the Triton that answers with them
└─ RolloutView     (features)    what was announced
checkpoint.py                      a trained model in a folder, its manifest and checksums
"""

from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage, ModelManifest
from trainer.registry.registry import (
    ModelRegistry,
    ModelServer,
    ModelServerClient,
    ReleaseVersion,
    RolloutRejectedError,
    ServerUnavailableError,
)
from trainer.registry.repository import (
    CONFIG,
    EXACT,
    GRAPH,
    ModelRepository,
    ModelVersion,
    RepositoryLockedError,
    StagedVersion,
    WriteExtras,
    exact_graph,
)

__all__ = [
    "CONFIG",
    "EXACT",
    "GRAPH",
    "Lineage",
    "ModelManifest",
    "ModelRegistry",
    "ModelRepository",
    "ModelServer",
    "ModelServerClient",
    "ModelVersion",
    "ReleaseVersion",
    "RepositoryLockedError",
    "RolloutRejectedError",
    "ServerUnavailableError",
    "StagedVersion",
    "WriteExtras",
    "checkpoint",
    "exact_graph",
]
