"""`headwater train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.data_options import Data, Map, Type, data_source

if TYPE_CHECKING:
    from trainer.training.fit import Progress

Share = Annotated[
    float, typer.Option(help="learn from this first part of the log only", min=0.01, max=1)
]


def train(data: Data = None, maps: Map = None, types: Type = None, share: Share = 1.0) -> None:
    """Train a model on a log of events, load it into Triton, and give it all traffic."""
    from deploy import local
    from deploy.jobs.train import train_and_publish
    from deploy.settings import load_settings
    from features.kafka import ensure_topics
    from trainer.datasets.log import load_log

    settings = local.connect(load_settings())
    ensure_topics(settings.kafka)
    log, _ = load_log(data_source(settings, data, maps, types)).split(share)
    with _bar() as report:
        published = train_and_publish(settings, log, report)
    print(
        f"version {published.version.number} is live: {published.items} items, "
        f"held-out NDCG@10 {published.held_out:.3f}, {published.seconds:.0f} s of training"
    )


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the log", total=1.0)
        yield lambda progress: bar.update(task, completed=progress.done, description=str(progress))
