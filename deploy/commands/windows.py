"""`headwater windows`, `backfill` and `replay`: a history of events, sent, kept and rebuilt."""

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from threading import Event
from typing import Annotated

import msgspec
import typer
from headwater_client import EventProducer
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES
from rich.console import Console
from rich.table import Table

from deploy import local
from deploy.commands.data_options import Data, Map, Type, data_source, load_log
from deploy.jobs.backfill import (
    fill_rows_from_kafka,
    fill_rows_from_log,
    read_catalogue,
    wait_for_workers,
)
from deploy.jobs.replay import Pace, ReplayResult, immediate_pace, rate_pace, speed_pace
from deploy.jobs.replay import replay as replay_log
from deploy.local.store import history_path
from deploy.progress import ProgressDisplay, show_progress
from deploy.services.health import ServiceHealth, ask_servers, serve_health
from deploy.services.supervisor import configure_logs, graceful_shutdown
from deploy.settings import Settings, load_settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.examples import observe_log
from trainer.examples.feast_history import write_history
from trainer.windows.events import WindowEvent
from trainer.windows.store import WindowManifest, WindowStore, read_log
from trainer.windows.writer import WindowLoader, WindowWriter

app = typer.Typer(
    help="Windows of events, which training reads.", no_args_is_help=True, add_completion=False
)

AsJson = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Number = Annotated[int, typer.Argument(help="as `windows list` shows it", min=1)]
Head = Annotated[int, typer.Option(help="only the first so many events", min=0)]


@app.command()
def write() -> None:
    """Gather events from Kafka into windows until Ctrl-C or SIGTERM; one process at a time."""
    configure_logs()
    settings = local.connect(load_settings(), only=["kafka"])
    store = WindowStore(settings.windows_address)
    writer = WindowWriter(settings.kafka, store, settings.windows, settings.events)
    # Of what a trainer does it is a part, and has its probes.
    health = ServiceHealth(ask_servers(settings, "kafka"))
    port, address = settings.trainer.metrics_port, settings.trainer.metrics_address
    with graceful_shutdown() as stop, serve_health("trainer", port, address, health):
        for _ in writer.run(stop, on_turn=partial(health.turn, "windows")):
            pass


# It was `ls` up to release 0.2.0.
@app.command("ls", hidden=True)
@app.command("list")
def list_windows(as_json: AsJson = False) -> None:
    """List the windows, oldest first."""
    store = WindowStore(load_settings().windows_address)
    manifests = [store.manifest(number) for number in store.numbers()]
    if as_json:
        print(msgspec.json.encode(manifests).decode())
    else:
        Console().print(_windows_table(manifests))


@app.command()
def show(number: Number, as_json: AsJson = False, head: Head = 20) -> None:
    """Show a window: what it is, and its events."""
    store = WindowStore(load_settings().windows_address)
    window = store.read(number)
    rows = window.rows[:head]
    if as_json:
        print(msgspec.json.encode({"manifest": window.manifest, "rows": rows}).decode())
        return
    print(f"{store.address(window.manifest)}, {window.manifest.size_bytes} bytes")
    Console().print(_windows_table([window.manifest]))
    Console().print(_rows_table(rows))
    if len(rows) < len(window.rows):
        print(f"... {len(window.rows) - len(rows)} more: --head {len(window.rows)}")


def _windows_table(manifests: list[WindowManifest]) -> Table:

    # 80 columns hold it.
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for name in ("window", "events", "late", "repeated", "refused"):
        table.add_column(name, justify="right")
    for name in ("from", "to", "closed by"):
        table.add_column(name)
    for one in manifests:
        counts = (one.number, one.events, one.late, one.repeated, one.refused)
        times = (_time(each, "minutes") for each in (one.first_ms, one.last_ms))
        table.add_row(*map(str, counts), *times, one.reason)
    return table


def _rows_table(rows: list[WindowEvent]) -> Table:

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("time", "type", "user_id", "item_id", "event_id", "from", ""):
        table.add_column(name)
    for row in rows:
        event = row.event
        marks = ("late" * row.late, "repeated" * row.repeated)
        table.add_row(
            _time(event.timestamp),
            type(event).__name__.lower(),
            event.user_id,
            event.item_id,
            event.event_id,
            f"{row.topic}/{row.partition}/{row.offset}",
            " ".join(filter(None, marks)),
        )
    return table


def _time(time_ms: int, precision: str = "seconds") -> str:
    when = datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)
    return when.isoformat(" ", precision)


class BackfillPart(StrEnum):
    """What can be rebuilt."""

    ROWS = "rows"
    WINDOWS = "windows"
    HISTORY = "history"


Parts = Annotated[
    list[BackfillPart] | None,
    typer.Argument(
        help="rows of the online store; windows; history: people's rows after each of their "
        "events, for Feast's get_historical_features. Default: rows and windows",
    ),
]


def backfill(parts: Parts = None, data: Data = None, maps: Map = None, types: Type = None) -> None:
    """Rebuild the online store and the windows, from all that Kafka has, or from --data."""
    configure_logs()
    if data is None and (maps or types):
        raise SettingsError("--map, --type: say how --data is read: give --data too")
    chosen = set(parts or (BackfillPart.ROWS, BackfillPart.WINDOWS))
    settings = load_settings()
    log = load_log(data_source(settings, data, maps, types)) if data else None
    needed = [
        *(["kafka"] if log is None else []),
        *(["store"] if BackfillPart.ROWS in chosen else []),
    ]
    settings = local.connect(settings, only=needed)
    if BackfillPart.ROWS in chosen and log is None:
        wait_for_workers(settings)
    with show_progress() as display:
        # Windows of something else are refused: before rows are changed.
        if BackfillPart.WINDOWS in chosen:
            _backfill_windows(settings, log, display)
        if BackfillPart.ROWS in chosen:
            _backfill_rows(settings, log, display)
        if BackfillPart.HISTORY in chosen:
            _backfill_history(settings, log, display)


def _backfill_rows(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:

    def show(done: int, total: int) -> None:
        display.show("rows", done, total)

    filling = (
        fill_rows_from_log(settings, log, show) if log else fill_rows_from_kafka(settings, show)
    )
    filled = asyncio.run(filling)
    refused = f", {filled.refused} refused" if filled.refused else ""
    print(f"rows: {filled.events} events, {filled.items} messages of the catalogue{refused}")


def _backfill_windows(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:
    total = len(log.events) if log else None
    windows = events = 0
    for manifest in _write_windows(settings, log):
        windows, events = windows + 1, events + manifest.events
        display.show("windows", events, total)
    print(f"windows: {windows} written with {events} events, in {settings.windows_address}")


def _backfill_history(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:

    if log is None:
        store = WindowStore(settings.windows_address)
        log = Log(read_log(store, store.numbers()).events, read_catalogue(settings))
    path = history_path(settings)
    seen = display.track("history", observe_log(log.events, log.items))
    print(f"history: {write_history(seen, path, FeatureSchema(settings.features))} rows in {path}")


def _write_windows(settings: Settings, log: Log | None) -> Iterable[WindowManifest]:

    store = WindowStore(settings.windows_address)
    if log:
        return WindowLoader(log.fingerprint, store, settings.windows).write(log.events)
    writer = WindowWriter(settings.kafka, store, settings.windows, settings.events)
    return writer.run(Event(), to_end=True)


FASTEST = "max"
INTERRUPTED = 130

Speed = Annotated[
    str | None,
    typer.Option(
        help="seconds of event time replayed in one second (3600: an hour), or max, the default"
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
        f"{sent.events_by_type[name]} {spec.topic}"
        for name, spec in EVENT_TYPES.items()
        if spec.has_counters or sent.events_by_type[name]
    )
    print(
        f"{how} {sent.items} items, {events}{refused} "
        f"in {sent.seconds:.1f} s ({sent.events / max(sent.seconds, 0.001):,.0f} events/s)"
    )
