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
from deploy.jobs.backfill import (
    fill_rows_from_kafka,
    fill_rows_from_log,
    read_catalogue,
    wait_for_workers,
)
from deploy.local.feature_repo import history_path
from deploy.progress import ProgressDisplay, show_progress
from deploy.services.logging import configure_logs
from deploy.settings import Settings, load_settings
from features.schema import FeatureSchema
from trainer.datasets import Log, load_log
from trainer.examples import observe_log
from trainer.examples.feast_history import write_history
from trainer.windows.log import read_log
from trainer.windows.store import WindowManifest, WindowStore
from trainer.windows.writer import WindowLoader, WindowWriter


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
    return WindowWriter(settings.kafka, store, settings.windows).run(Event(), to_end=True)
