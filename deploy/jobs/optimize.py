"""Makes the optimised forms of a version: for `headwater optimize`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headwater_client.errors import DataError

from deploy.jobs.evaluate import version_folder
from deploy.optimize.forms import Outcome, Version, optimize
from deploy.optimize.questions import questions
from deploy.settings import Settings
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets.log import Log
from trainer.registry.checkpoint import load, read_manifest

# Asked in seconds, and enough to see a loss of a hundredth of NDCG@10: of a thousand, chance alone
# takes as much.
QUESTIONS = 3000
_UNTOLD_SHARE = 0.9


def optimize_version(settings: Settings, number: int | None, log: Log) -> Iterator[Outcome]:
    """Make every form of a version that this machine can, and check it on what is held out.

    Args:
        number: of the version; None: the newest.

    Raises:
        DataError: there is no such version, or nothing of the log is later than what it learned.
    """
    folder = version_folder(settings.model_repository, number)
    version = asked_version(folder, int(folder.name), log, QUESTIONS, settings.features)
    return optimize(version, settings.optimised_repository, settings.optimize)


def asked_version(
    folder: Path, number: int, log: Log, most: int, features: FeatureSettings
) -> Version:
    """A version's folder, and events of a log to ask its forms about: what it has not learned.

    Args:
        most: so many events, at most.
        features: of a version whose manifest does not say.

    Raises:
        DataError: it knows no item of the log's newest events.
    """
    trained, described = load(folder), read_manifest(folder).settings.get("features")
    schema = FeatureSchema(FeatureSettings(**described) if described else features)
    until_ms = trained.until_ms
    earlier, later = log.split(_UNTOLD_SHARE) if until_ms is None else log.split_after(until_ms)
    if not later.events:
        # What was learned tells as well whether two forms of one model answer alike.
        earlier, later = log.split(_UNTOLD_SHARE)
    asked = questions(earlier, later, trained.vocabulary, schema, most)
    if not len(asked.targets):
        raise DataError(f"{folder}: knows no item of the log's newest events: name another --data")
    return Version(number, folder, trained.model, schema, asked)
