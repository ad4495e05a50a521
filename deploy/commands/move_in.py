"""`headwater import`: a log of another recommender, sent to Kafka."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from headwater_client import EventProducer

from deploy import local
from deploy.jobs.foreign_logs import read_gorse, read_metarank
from deploy.jobs.replay import replay
from deploy.progress import show_progress
from deploy.settings import load_settings
from features.kafka import ensure_topics
from features.settings import EventSettings
from stream.api.compat.values import EventAliases
from trainer.datasets import Log

app = typer.Typer(help="Bring in a log of Gorse or Metarank.", no_args_is_help=True)
INTERRUPTED = 130
Source = Annotated[Path, typer.Argument(metavar="PATH", help="a file, or a folder of them")]
ReadLog = Callable[[Path, EventSettings, EventAliases], Log]


@app.command()
def gorse(path: Source) -> None:
    """A dump of Gorse, or its exports of items and feedback (JSON lines, CSV), also gzipped."""
    _import(path, read_gorse)


@app.command()
def metarank(path: Source) -> None:
    """Event files of Metarank: JSON lines, also gzipped."""
    _import(path, read_metarank)


def _import(path: Path, read: ReadLog) -> None:
    """Send a log's items, then its events in the order of their times; say what became of all."""
    settings = load_settings()
    log = read(path, settings.events, EventAliases(settings.api.event_aliases))
    for line in log.describe_rows():
        print(f"headwater: {line}", file=sys.stderr)
    kafka = local.connect(settings, only=["kafka"]).kafka
    ensure_topics(kafka)
    with EventProducer(kafka.client_settings) as producer, show_progress() as display:
        total = len(log.events)
        sent = replay(
            log, producer, on_progress=lambda so_far: display.show("import", so_far.events, total)
        )
    events = ", ".join(f"{count} {name}" for name, count in sent.events_by_type.items())
    print(f"sent {sent.items} items, {sent.events} events ({events or 'none'}); {log.counts}")
    if sent.interrupted:
        raise typer.Exit(INTERRUPTED)
