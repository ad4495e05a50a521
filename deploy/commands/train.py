"""`headwater train`, once, and `headwater trainer`, which goes on learning."""

from contextlib import closing
from typing import Annotated

import typer

from deploy import local
from deploy.commands.data_options import Data, Map, Type, data_source, load_log
from deploy.jobs.train import find_live, model_registry, train_and_publish
from deploy.progress import show_progress
from deploy.services.supervisor import configure_logs, graceful_shutdown
from deploy.services.trainer import release, slow_loop
from deploy.settings import load_settings
from features.kafka import ensure_topics
from trainer.priority import give_way
from trainer.progress import TrainingPhase

Share = Annotated[
    float, typer.Option(help="train on this first part of the log only", min=0.01, max=1)
]
UnlessLive = Annotated[
    bool, typer.Option("--unless-live", help="end where a version is live already")
]


def train(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    share: Share = 1.0,
    unless_live: UnlessLive = False,
) -> None:
    """Train a model on a log of events, and give it all traffic."""
    settings = local.connect(load_settings())
    ensure_topics(settings.kafka)
    if unless_live and (live := find_live(settings.kafka)):
        print(f"version {live.version} is live already")
        return
    with show_progress() as display:
        display.show(TrainingPhase.READING, 0.0)
        log, _ = load_log(data_source(settings, data, maps, types)).split(share)
        published = train_and_publish(
            settings, log, lambda at: display.show(str(at), at.done, 1.0, at.seconds_left)
        )
    print(
        f"version {published.version.number} is live: {published.items} items, "
        f"held-out NDCG@10 {published.held_out:.3f}, {published.seconds:.0f} s of training"
    )


Kept = Annotated[
    int | None,
    typer.Argument(
        help="number of the version; default: the newest one that was kept aside", min=1
    ),
]


def publish(version: Kept = None) -> None:
    """Publish a version that was kept aside, once the cause is mended."""
    settings = local.connect(load_settings(), only=["kafka", "triton"])
    with closing(model_registry(settings)) as registry:
        brought, is_live = registry.publish_kept(version, release(settings))
    print(f"version {brought.number} is {'live' if is_live else 'being tried out'}")


def trainer() -> None:
    """Run the slow loop: windows of events become versions, once they pass the gate.

    It runs until it is stopped.
    """
    configure_logs()
    settings = local.connect(load_settings(), only=["kafka", "triton"])
    give_way(settings.trainer.nice)
    with graceful_shutdown() as stop:
        for _ in slow_loop(settings, stop):
            pass
