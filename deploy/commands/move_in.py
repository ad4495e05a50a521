"""`headwater import`: a log of another recommender, sent to Kafka."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from headwater_client import EventProducer, encode
from headwater_client.topics import PEOPLE

from deploy import local
from deploy.jobs.foreign_logs import ForeignLog, read_gorse, read_metarank
from deploy.jobs.replay import replay
from deploy.progress import show_progress
from deploy.settings import load_settings
from features.kafka import ensure_topics
from features.settings import EventSettings
from stream.api.compat.values import EventAliases

app = typer.Typer(
    help="Bring in a log of Gorse or Metarank.", no_args_is_help=True, add_completion=False
)
INTERRUPTED = 130
Source = Annotated[Path, typer.Argument(metavar="PATH", help="a file, or a folder of them")]
ReadLog = Callable[[Path, EventSettings, EventAliases], ForeignLog]


@app.command()
def gorse(path: Source) -> None:
    """Import a dump of Gorse, or its exports of items and feedback: JSON lines, CSV, gzip."""
    _import(path, read_gorse)


@app.command()
def metarank(path: Source) -> None:
    """Import event files of Metarank: JSON lines, gzip."""
    _import(path, read_metarank)


def _import(path: Path, read: ReadLog) -> None:
    """Send what a log says of people and items, then its events in the order of their times."""
    settings = load_settings()
    log, people = read(path, settings.events, EventAliases(settings.api.event_aliases))
    for line in log.describe_rows():
        print(f"headwater: {line}", file=sys.stderr)
    kafka = local.connect(settings, only=["kafka"]).kafka
    ensure_topics(kafka)
    with EventProducer(kafka.client_settings) as producer, show_progress() as display:
        total = len(log.events)
        for person in people:
            producer.send_raw(PEOPLE, person.user_id, encode(person))
        sent = replay(
            log, producer, on_progress=lambda so_far: display.show("import", so_far.events, total)
        )
    events = ", ".join(f"{count} {name}" for name, count in sent.events_by_type.items())
    said = f"{sent.items} items, {len(people)} people"
    print(f"sent {said}, {sent.events} events ({events or 'none'}); {log.counts}")
    if sent.interrupted:
        raise typer.Exit(INTERRUPTED)
