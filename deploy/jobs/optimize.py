"""Builds variants of versions: for `headwater optimize`, and for what publishes new versions."""

from collections.abc import Iterator
from pathlib import Path

from headwater_client.errors import DataError

from deploy.optimize import ServedPrecision
from deploy.optimize.variants import SourceVersion, VariantOutcome, build_variants, serve_int8
from deploy.settings import Settings
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets import Log
from trainer.evaluation import newest_requests, sample_requests
from trainer.examples import Examples, build_examples, observe_log, replay_log
from trainer.loop import OnGatePassed
from trainer.network import TrainedModel
from trainer.registry import ModelRepository, StagedVersion, WriteExtras
from trainer.registry.checkpoint import load, trained_schema

# Answered in seconds, and enough to see a loss of a hundredth of NDCG@10: with a thousand, chance
# alone makes up as much.
EVAL_REQUESTS = 3000
_EARLIER_FRACTION = 0.9


def optimize_version(settings: Settings, number: int | None, log: Log) -> Iterator[VariantOutcome]:
    """Build every variant of a version that this machine can, and compare it on held-out events.

    Args:
        number: of the version; None: the newest.

    Raises:
        DataError: there is no such version, or nothing of the log is later than what it learned.
    """
    version = ModelRepository(settings.model_repository).existing_version(number)
    source = load_source(version.folder, version.number, log, EVAL_REQUESTS, settings.features)
    return build_variants(source, settings.optimised_repository, settings.optimize)


def load_source(
    folder: Path, number: int, log: Log, limit: int, features: FeatureSettings
) -> SourceVersion:
    """A version, and requests for events of a log that it has not learned.

    Args:
        limit: on the number of requests.
        features: the settings of a version whose manifest does not say.

    Raises:
        DataError: it knows no item of the log's newest events.
    """
    trained, schema = load(folder), trained_schema(folder, features)
    until_ms = trained.until_ms
    earlier, later = log.split(_EARLIER_FRACTION) if until_ms is None else log.split_after(until_ms)
    if not later.events:
        # Whether two variants answer alike shows on learned events as well.
        earlier, later = log.split(_EARLIER_FRACTION)
    requests = sample_requests(earlier, later, trained.vocabulary, schema, limit)
    if not len(requests.targets):
        raise DataError(f"{folder}: knows no item of the log's newest events: name another --data")
    return SourceVersion(number, folder, trained.model, schema, requests)


def serve_window_variant(settings: Settings) -> OnGatePassed | None:
    """What the slow loop does to a staged version so that it is served in INT8; None: nothing.

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


def serve_first_variant(settings: Settings, trained: TrainedModel, log: Log) -> WriteExtras | None:
    """The same for a first model, which has learned from `log`."""
    extend = serve_window_variant(settings)
    if extend is None:
        return None
    schema = FeatureSchema(settings.features)
    replayed = replay_log(observe_log(log.events, log.items), schema)
    events = build_examples(replayed, trained.vocabulary, schema)
    return extend(trained, events)
