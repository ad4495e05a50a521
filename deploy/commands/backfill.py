"""`headwater backfill`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import StrEnum
from threading import Event
from typing import Annotated

import typer
from headwater_client.errors import SettingsError

from deploy import local
from deploy.commands.data_options import Data, Map, Type, data_source
from deploy.jobs.backfill import items_from_kafka, rows_from_kafka, rows_from_log, wait_for_workers
from deploy.local.feature_repo import history_path
from deploy.progress import ProgressDisplay, show_progress
from deploy.services.logging import configure_logs
from deploy.settings import Settings, load_settings
from features.schema import FeatureSchema
from trainer.datasets import Log, load_log
from trainer.examples import observe_log
from trainer.examples.feast_history import write_history
from trainer.windows.loading import WindowLoader
from trainer.windows.log import read_log
from trainer.windows.manifest import WindowManifest
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowWriter


class Part(StrEnum):
    """What can be rebuilt."""

    ROWS = "rows"
    WINDOWS = "windows"
    HISTORY = "history"


Parts = Annotated[
    list[Part] | None,
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
    chosen = set(parts or (Part.ROWS, Part.WINDOWS))
    settings = load_settings()
    log = load_log(data_source(settings, data, maps, types)) if data else None
    needed = [*(["kafka"] if log is None else []), *(["store"] if Part.ROWS in chosen else [])]
    settings = local.connect(settings, only=needed)
    if Part.ROWS in chosen and log is None:
        wait_for_workers(settings)
    with show_progress() as display:
        # Windows of something else are refused: before rows are changed.
        if Part.WINDOWS in chosen:
            _windows(settings, log, display)
        if Part.ROWS in chosen:
            _rows(settings, log, display)
        if Part.HISTORY in chosen:
            _history(settings, log, display)


def _rows(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:

    def show(done: int, total: int) -> None:
        display.show("rows", done, total)

    filling = rows_from_log(settings, log, show) if log else rows_from_kafka(settings, show)
    filled = asyncio.run(filling)
    refused = f", {filled.refused} refused" if filled.refused else ""
    print(f"rows: {filled.events} events, {filled.items} messages of the catalogue{refused}")


def _windows(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:
    total = len(log.events) if log else None
    windows = events = 0
    for manifest in _written(settings, log):
        windows, events = windows + 1, events + manifest.events
        display.show("windows", events, total)
    print(f"windows: {windows} written with {events} events, in {settings.windows_address}")


def _history(settings: Settings, log: Log | None, display: ProgressDisplay) -> None:

    if log is None:
        store = WindowStore(settings.windows_address)
        log = Log(read_log(store, store.numbers()).events, items_from_kafka(settings))
    path = history_path(settings)
    seen = display.track("history", observe_log(log.events, log.items))
    print(f"history: {write_history(seen, path, FeatureSchema(settings.features))} rows in {path}")


def _written(settings: Settings, log: Log | None) -> Iterable[WindowManifest]:

    store = WindowStore(settings.windows_address)
    if log:
        return WindowLoader(log.fingerprint, store, settings.windows).write(log.events)
    return WindowWriter(settings.kafka, store, settings.windows).run(Event(), to_end=True)
