"""`headwater replay`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES

from deploy.commands.data_options import Data, Map, Type, data_source

if TYPE_CHECKING:
    from deploy.jobs.replay import Pace, Replayed
    from trainer.datasets.log import Log

FASTEST = "max"
SHOWN_REFUSALS = 3
INTERRUPTED = 130

Speed = Annotated[
    str | None,
    typer.Option(
        help="seconds of event time that pass in one (3600: an hour), or max, the default"
    ),
]
Rate = Annotated[float | None, typer.Option(help="events a second, instead of --speed", min=0.001)]
Events = Annotated[int | None, typer.Option(help="only the first so many events", min=1)]
Items = Annotated[bool, typer.Option(help="whether to send the items before the events")]


def replay(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    speed: Speed = None,
    rate: Rate = None,
    events: Events = None,
    items: Items = True,
) -> None:
    """Stream a log of events into Kafka, in event-time order."""
    from deploy import local
    from deploy.jobs.replay import replay as replay_log
    from deploy.settings import load_settings
    from features.kafka import ensure_topics
    from stream.client import EventProducer
    from trainer.datasets.log import load_log

    settings = load_settings()
    kafka = local.connect(settings, only=["kafka"]).kafka
    log = load_log(data_source(settings, data, maps, types))
    _warn_of_refused(log)
    log = log.head(events) if events else log
    log = log if items else replace(log, items=())
    pace = _pace(log, speed, rate)
    ensure_topics(kafka)
    with EventProducer(kafka) as producer, _progress_bar(log) as on_progress:
        sent = replay_log(log, producer, pace, on_progress)
    _summarise(sent)
    if sent.interrupted:
        raise typer.Exit(INTERRUPTED)


def _pace(log: Log, speed: str | None, rate: float | None) -> Pace:
    from deploy.jobs.replay import at_once, at_rate, at_speed

    if speed and rate:
        raise SettingsError("--speed and --rate exclude one another")
    if rate:
        return at_rate(rate)
    if speed is None or speed == FASTEST:
        return at_once
    return at_speed(_positive(speed), log.events[0].timestamp)


def _positive(speed: str) -> float:
    try:
        number = float(speed)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise SettingsError(f"--speed {speed}: expected a number above 0, or {FASTEST}")
    return number


def _warn_of_refused(log: Log) -> None:
    for row in log.refused[:SHOWN_REFUSALS]:
        print(f"headwater: refused: {row}", file=sys.stderr)
    if log.refused:
        print(
            f"headwater: {len(log.refused)} rows break the event contract: they are sent as they "
            "are, and end in dead-letters",
            file=sys.stderr,
        )


@contextmanager
def _progress_bar(log: Log) -> Iterator[Callable[[Replayed], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.fields[event_time]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} events/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(log.events), event_time="items", rate=0.0)

        def show(sent: Replayed) -> None:
            when = datetime.fromtimestamp(sent.event_time_ms / 1000, UTC)
            progress.update(
                task,
                completed=sent.events,
                event_time=f"{when:%Y-%m-%d %H:%M}",
                rate=sent.events / sent.seconds,
            )

        yield show


def _summarise(sent: Replayed) -> None:
    how = "interrupted after" if sent.interrupted else "sent"
    refused = f", {sent.refused} refused rows" if sent.refused else ""
    events = ", ".join(
        f"{sent.events_by_type[name]} {spec.topic}" for name, spec in EVENT_TYPES.items()
    )
    print(
        f"{how} {sent.items} items, {events}{refused} "
        f"in {sent.seconds:.1f} s ({sent.events / max(sent.seconds, 0.001):,.0f} events/s)"
    )
