"""The variant in which new versions are served, as the settings say: for what publishes them."""

from __future__ import annotations

from deploy.jobs.optimize import EVAL_REQUESTS
from deploy.optimize import ServedPrecision
from deploy.optimize.publishing import serve_int8
from deploy.optimize.requests import newest_requests
from deploy.optimize.variants import SourceVersion
from deploy.settings import Settings
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.examples import Examples, build_examples, observe_log, replay_log
from trainer.loop import OnGatePassed
from trainer.network import TrainedModel
from trainer.registry import StagedVersion, WriteExtras


def extend_windows_version(settings: Settings) -> OnGatePassed | None:
    """What the slow loop adds to a staged version; None: nothing.

    Variants are compared on events that the version has learned from: parity needs no unseen ones.
    """
    if settings.optimize.serve is ServedPrecision.FLOAT32:
        return None
    schema = FeatureSchema(settings.features)

    def extend(trained: TrainedModel, events: Examples) -> WriteExtras:
        requests = newest_requests(events, schema, EVAL_REQUESTS)

        def write(staged: StagedVersion) -> None:
            version = SourceVersion(staged.number, staged.folder, trained.model, schema, requests)
            serve_int8(version, settings.model_repository, settings.optimize)

        return write

    return extend


def extend_first_version(settings: Settings, trained: TrainedModel, log: Log) -> WriteExtras | None:
    """The same for a first model; `log` is what it has learned from."""
    extend = extend_windows_version(settings)
    if extend is None:
        return None
    schema = FeatureSchema(settings.features)
    replayed = replay_log(observe_log(log.events, log.items), schema)
    events = build_examples(replayed, trained.vocabulary, schema)
    return extend(trained, events)
