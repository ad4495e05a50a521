"""Loads a version of the local repository beside the stable one, to be tried out."""

from __future__ import annotations

from contextlib import closing

from headwater_client.errors import DataError, ServerError, SettingsError

from deploy.jobs.train import model_registry
from deploy.rollout import CommandRejectedError
from deploy.settings import Settings
from features.schema import check_version_fits
from trainer.registry import ModelVersion, RepositoryLockedError, checkpoint
from trainer.retrying import retrying

# A trainer holds the repository while it makes a version.
BUSY_S = 30.0


def load_candidate(settings: Settings, number: int) -> ModelVersion:
    """Load a version into Triton, and check its answers against ONNX Runtime here.

    Raises:
        CommandRejectedError: there is no such version, it is damaged, or it cannot be loaded.
        RepositoryLockedError: somebody else publishes, and does not end.
    """
    with closing(model_registry(settings)) as registry:
        repository = registry.repository
        version = repository.version(number)
        if not version.folder.is_dir():
            existing = ", ".join(map(str, repository.version_numbers())) or "none"
            raise CommandRejectedError(
                f"start: version {number}: is not in {repository.model}: there: {existing}"
            )
        try:
            checkpoint.verify(version.folder)
            check_version_fits(version.address, registry.schema.contract)
            with registry.server.connect() as triton:
                if triton.is_ready(number):
                    return version
            retrying(BUSY_S, RepositoryLockedError)(registry.load_and_verify, version)
        except (ServerError, DataError, SettingsError) as error:
            raise CommandRejectedError(f"start: version {number}: {error}") from error
        return version
