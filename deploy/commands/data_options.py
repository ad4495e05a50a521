"""`headwater data inspect`; a log of events as an option of commands, and what is said of it."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.settings import Settings, load_settings
from trainer import datasets
from trainer.datasets import DataSource, Log, mapping_from_options

app = typer.Typer(
    help="Logs of events in files: what they hold.", no_args_is_help=True, add_completion=False
)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="file or folder: MovieLens in any of its layouts, CSV or Parquet; "
        "default: MovieLens-100K",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="the column of a table that holds a field (user, item, time, price, title, ...); "
        "may be repeated",
    ),
]
Type = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="TYPE|VALUE=TYPE",
        help="the event type of all rows of a table (click, purchase, ...); or, as VALUE=TYPE, the "
        "type that a value of the type column stands for, or skip; may be repeated",
    ),
]

Report = Annotated[Path | None, typer.Option(help="write the figures to this file, as JSON")]


def data_source(
    settings: Settings, data: Path | None, maps: list[str] | None, types: list[str] | None
) -> DataSource:
    """Where the options say that the log is."""
    mapping = mapping_from_options(maps or [], types or [])
    return DataSource(settings.local.cache_dir, data, mapping, settings.events)


def load_log(source: DataSource) -> Log:
    """Read a log, and say on standard error what became of its rows.

    Raises:
        DataError: as `trainer.datasets.load_log`.
        SettingsError: likewise.
    """
    log = datasets.load_log(source)
    for line in log.describe_rows():
        print(f"headwater: {line}", file=sys.stderr)
    return log


@app.callback()
def data() -> None:
    """Logs of events in files: what they hold."""


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="file or folder, as for --data of other commands")],
    maps: Map = None,
    types: Type = None,
    of_items: Annotated[
        bool, typer.Option("--items", help="the rows are a catalogue of items, not events")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Show what a log holds and what looks wrong in it, before anything is learned from it."""
    settings = load_settings()
    source = data_source(settings, path, maps, types)
    log = datasets.examine_catalogue(path, source) if of_items else datasets.examine_log(source)
    found = datasets.summarise_log(log, settings.events)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(_figures(found)), indent=2).decode())
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.counts}")
    for table in _tables(found):
        console.print()
        console.print(table)
    for warning in found.warnings:
        console.print(f"\n{warning.name}: {warning.count:,}: {warning.text}", markup=False)


def _figures(found: datasets.LogSummary) -> dict[str, Any]:
    return {
        "rows": found.counts.rows,
        "events": found.events,
        "people": found.people,
        "items": found.items,
        "from": _time(found.first_ms),
        "to": _time(found.last_ms),
        "types": found.types,
        "rows_of_events": found.counts.events,
        "rows_of_items": found.counts.items,
        "refused": found.refused,
        "skipped": found.counts.skipped,
        "refused_items": found.refused_items,
        "warnings": {warning.name: warning.count for warning in found.warnings},
        "explanations": {warning.name: warning.text for warning in found.warnings},
        "passed_over": found.passed_over,
    }


def _tables(found: datasets.LogSummary) -> list[Table]:
    held = [
        *((f"events: {name}", f"{count:,}") for name, count in found.types.items()),
        ("people", f"{found.people:,}"),
        ("items", f"{found.items:,}"),
        ("from", _time(found.first_ms) or "-"),
        ("to", _time(found.last_ms) or "-"),
    ]
    parts = {
        "the log": held,
        "refused": [(reason, f"{count:,}") for reason, count in found.refused.items()],
        "refused of items": [(why, f"{count:,}") for why, count in found.refused_items.items()],
        "passed over": [(name, "") for name in found.passed_over],
    }
    return [_table(title, rows) for title, rows in parts.items() if rows]


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(title, overflow="fold")
    table.add_column("", justify="right")
    for name, value in rows:
        table.add_row(Text(name), value)
    return table


def _time(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    when = datetime.fromtimestamp(time_ms / 1000, UTC).replace(tzinfo=None)
    return f"{when.isoformat(timespec='seconds')}Z"
