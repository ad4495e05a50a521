"""`headwater backfill`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from headwater_client.errors import SettingsError

from deploy.commands.data_options import Data, Map, Type, data_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Progress

    from deploy.settings import Settings
    from trainer.datasets.log import Log
    from trainer.windows.manifest import WindowManifest


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
    from deploy import local
    from deploy.jobs.backfill import wait_for_workers
    from deploy.services.logging import configure_logs
    from deploy.settings import load_settings
    from trainer.datasets.log import load_log

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
    with _progress() as progress:
        # Windows of something else are refused: before rows are changed.
        if Part.WINDOWS in chosen:
            _windows(settings, log, progress)
        if Part.ROWS in chosen:
            _rows(settings, log, progress)
        if Part.HISTORY in chosen:
            _history(settings, log, progress)


def _rows(settings: Settings, log: Log | None, progress: Progress) -> None:
    import asyncio

    from deploy.jobs.backfill import rows_from_kafka, rows_from_log

    task = progress.add_task("rows", total=None)

    def show(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    filling = rows_from_log(settings, log, show) if log else rows_from_kafka(settings, show)
    filled = asyncio.run(filling)
    refused = f", {filled.refused} refused" if filled.refused else ""
    print(f"rows: {filled.events} events, {filled.items} messages of the catalogue{refused}")


def _windows(settings: Settings, log: Log | None, progress: Progress) -> None:
    task = progress.add_task("windows", total=len(log.events) if log else None)
    windows = events = 0
    for manifest in _written(settings, log):
        windows, events = windows + 1, events + manifest.events
        progress.update(task, completed=events)
    print(f"windows: {windows} written with {events} events, in {settings.windows_address}")


def _history(settings: Settings, log: Log | None, progress: Progress) -> None:
    from deploy.jobs.backfill import items_from_kafka
    from deploy.local.feature_repo import history_path
    from features.schema import FeatureSchema
    from trainer.datasets.log import Log
    from trainer.examples.feast_history import write_history
    from trainer.examples.replay import observed_log
    from trainer.windows.log import read_log
    from trainer.windows.store import WindowStore

    if log is None:
        store = WindowStore(settings.windows_address)
        log = Log(read_log(store, store.numbers()).events, items_from_kafka(settings))
    path = history_path(settings)
    seen = progress.track(observed_log(log.events, log.items), description="history")
    print(f"history: {write_history(seen, path, FeatureSchema(settings.features))} rows in {path}")


def _written(settings: Settings, log: Log | None) -> Iterable[WindowManifest]:
    from threading import Event

    from trainer.windows.loading import WindowLoader
    from trainer.windows.store import WindowStore
    from trainer.windows.writer import WindowWriter

    store = WindowStore(settings.windows_address)
    if log:
        return WindowLoader(log.fingerprint, store, settings.windows).write(log.events)
    return WindowWriter(settings.kafka, store, settings.windows).run(Event(), to_end=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress
