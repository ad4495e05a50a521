"""The model registry: versions of the model on disk, in Triton, and announced.

ModelRegistry  (registry.py)     makes versions and brings them live; all that publishes
├─ ModelRepository (repository)  the folder of versions, and its lock (lock_holder)
├─ VersionWriter   (staging)     writes the next version, whole or not at all
├─ LoadedVersions  (loaded)      what each Triton has of them
└─ RolloutView     (features)    what was announced
checkpoint.py                    a trained model in a folder, its manifest and checksums
"""

from features.model_server import CONFIG
from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage, ModelManifest
from trainer.registry.registry import ModelRegistry, ReleaseVersion, RolloutRejectedError
from trainer.registry.repository import ModelRepository, ModelVersion, RepositoryLockedError
from trainer.registry.staging import EXACT, GRAPH, StagedVersion, WriteExtras, exact_graph

__all__ = [
    "CONFIG",
    "EXACT",
    "GRAPH",
    "Lineage",
    "ModelManifest",
    "ModelRegistry",
    "ModelRepository",
    "ModelVersion",
    "ReleaseVersion",
    "RepositoryLockedError",
    "RolloutRejectedError",
    "StagedVersion",
    "WriteExtras",
    "checkpoint",
    "exact_graph",
]
