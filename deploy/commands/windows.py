"""`headwater windows write`, `ls` and `show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from deploy import local
from deploy.services.logging import configure_logs
from deploy.services.supervisor import graceful_shutdown
from deploy.settings import load_settings
from trainer.windows.events import WindowEvent
from trainer.windows.store import WindowManifest, WindowStore
from trainer.windows.writer import WindowWriter

app = typer.Typer(help="Windows of events, which training reads.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Number = Annotated[int, typer.Argument(help="as `ls` shows it", min=1)]
Head = Annotated[int, typer.Option(help="only the first so many events", min=0)]


@app.command()
def write() -> None:
    """Gather events from Kafka into windows until Ctrl-C or SIGTERM; run one of it."""
    configure_logs()
    settings = local.connect(load_settings(), only=["kafka"])
    store = WindowStore(settings.windows_address)
    with graceful_shutdown() as stop:
        for _ in WindowWriter(settings.kafka, store, settings.windows).run(stop):
            pass


@app.command("ls")
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
