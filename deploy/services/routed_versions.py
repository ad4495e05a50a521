"""Keeps what takes traffic loaded, whichever service does so."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.model_server import keep_loaded
from features.rollout_messages import RoutedVersion
from features.rollouts import RolloutView
from stream.inference import model_servers


@contextmanager
def routed_versions_kept(settings: Settings) -> Iterator[None]:
    """What takes traffic is kept loaded on every Triton for as long as the block."""
    servers = model_servers(settings.triton)
    with closing(RolloutView(settings.kafka, MODEL_NAME)) as view:

        def list_routed() -> Sequence[RoutedVersion]:
            rollout = view.refresh()
            return rollout.versions if rollout else ()

        with keep_loaded(servers, list_routed, settings.worker.model_addresses):
            yield
