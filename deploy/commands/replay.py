"""`headwater replay`."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from headwater_client import EventProducer
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES

from deploy import local
from deploy.commands.data_options import Data, Map, Type, data_source
from deploy.jobs.replay import Pace, ReplayResult, immediate_pace, rate_pace, speed_pace
from deploy.jobs.replay import replay as replay_log
from deploy.progress import ProgressDisplay, show_progress
from deploy.settings import load_settings
from features.kafka import ensure_topics
from trainer.datasets import Log, load_log

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


def replay(  # noqa: PLR0913 (its options)
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    speed: Speed = None,
    rate: Rate = None,
    events: Events = None,
    items: Items = True,
) -> None:
    """Stream a log of events into Kafka, in event-time order."""
    settings = load_settings()
    kafka = local.connect(settings, only=["kafka"]).kafka
    log = load_log(data_source(settings, data, maps, types))
    _warn_of_refused(log)
    log = log.head(events) if events else log
    log = log if items else replace(log, items=())
    pace = _pace(log, speed, rate)
    ensure_topics(kafka)
    with EventProducer(kafka.client_settings) as producer, show_progress() as display:
        total = len(log.events)
        sent = replay_log(log, producer, pace, lambda so_far: _show(display, so_far, total))
    _summarise(sent)
    if sent.interrupted:
        raise typer.Exit(INTERRUPTED)


def _pace(log: Log, speed: str | None, rate: float | None) -> Pace:

    if speed and rate:
        raise SettingsError("--speed and --rate exclude one another")
    if rate:
        return rate_pace(rate)
    if speed is None or speed == FASTEST:
        return immediate_pace
    return speed_pace(_positive(speed), log.events[0].timestamp)


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


def _show(display: ProgressDisplay, sent: ReplayResult, total: int) -> None:
    when = datetime.fromtimestamp(sent.event_time_ms / 1000, UTC)
    rate = f"{when:%Y-%m-%d %H:%M}, {sent.events / sent.seconds:,.0f} events/s"
    display.show(f"replay: {rate}" if sent.events else "items", sent.events, total)


def _summarise(sent: ReplayResult) -> None:
    how = "interrupted after" if sent.interrupted else "sent"
    refused = f", {sent.refused} refused rows" if sent.refused else ""
    events = ", ".join(
        f"{sent.events_by_type[name]} {spec.topic}" for name, spec in EVENT_TYPES.items()
    )
    print(
        f"{how} {sent.items} items, {events}{refused} "
        f"in {sent.seconds:.1f} s ({sent.events / max(sent.seconds, 0.001):,.0f} events/s)"
    )
