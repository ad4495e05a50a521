"""Loads a version of the local repository beside the stable one, to be tried out."""

from __future__ import annotations

from headwater_client.errors import DataError, ServerError

from deploy.jobs.train import model_server
from deploy.rollout.errors import CommandRejectedError
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from trainer.registry import checkpoint
from trainer.registry.publish import bring_up
from trainer.registry.repository import (
    ModelVersion,
    RepositoryLockedError,
    version_numbers,
    version_of,
)
from trainer.retrying import retrying

# A trainer holds the repository while it makes a version.
BUSY_S = 30.0


def load_candidate(settings: Settings, number: int) -> ModelVersion:
    """Load a version into Triton, and check its answers against ONNX Runtime here.

    Raises:
        CommandRejectedError: there is no such version, it is damaged, or it cannot be loaded.
        RepositoryLockedError: somebody else publishes, and does not end.
    """
    version = version_of(settings.model_repository, number)
    if not version.folder.is_dir():
        model = settings.model_repository / MODEL_NAME
        existing = ", ".join(map(str, version_numbers(model))) if model.is_dir() else "none"
        raise CommandRejectedError(f"start: version {number}: is not in {model}: there: {existing}")
    server = model_server(settings)
    try:
        checkpoint.verify(version.folder)
        with server.connected() as triton:
            if triton.is_ready(number):
                return version
        load = retrying(BUSY_S, RepositoryLockedError)
        load(bring_up, version, server, FeatureSchema(settings.features))
    except (ServerError, DataError) as error:
        raise CommandRejectedError(f"start: version {number}: {error}") from error
    return version
