"""`headwater up`, `down`, `status` and `logs`: the local servers."""

import sys
import time
from collections import deque
from typing import Annotated

import msgspec
import typer
from headwater_client.errors import ServerError
from rich.console import Console
from rich.table import Table

from deploy import local
from deploy.local import ServerStatus
from deploy.local.store import feature_repo
from deploy.settings import Settings, load_settings
from features.kafka import ensure_topics

FOLLOW_S = 0.2

Only = Annotated[
    list[str] | None, typer.Argument(help="kafka, store, triton; all of them if none is named")
]


def say(name: str, text: str) -> None:
    """Progress of a server as a line for people."""
    print(f"{name or 'headwater':>9}  {text}", file=sys.stderr, flush=True)


def up(only: Only = None) -> None:
    """Start Kafka, the feature store and Triton on this machine, where no address is set."""
    settings = local.up(load_settings(), only=only or local.NAMES, progress=say)
    if not only:
        _prepare(settings)
    for name, address in local.addresses(settings).items():
        if address:
            print(f"{name} {address}")


def _prepare(settings: Settings) -> None:
    """Topics and feature repository: after this a worker can start, and Feast can read."""
    ensure_topics(settings.kafka)
    say("kafka", "topics are there")
    say("store", f"feature repository applied: {feature_repo(settings)}")


def down(only: Only = None) -> None:
    """Stop the servers that `up` started here."""
    stopped = local.down(load_settings(), only=only or local.NAMES, progress=say)
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Show where each server is and whether it answers; exit code 3 if one does not."""
    found = local.status(load_settings())
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print_table(found)
    if not all(one.healthy for one in found):
        raise typer.Exit(ServerError.exit_code)


def _print_table(servers: list[ServerStatus]) -> None:

    table = Table("server", "address", "pid", "state", box=None, header_style="bold")
    for one in servers:
        well = f"[green]healthy[/]{': ' if one.serving else ''}{one.serving}"
        state = well if one.healthy else f"[red]{one.detail}[/]"
        pid = "external" if one.external else str(one.pid or "-")
        table.add_row(one.name, one.address or "-", pid, state)
    Console().print(table)


def logs(
    name: Annotated[str, typer.Argument(help="kafka, store or triton")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it grows")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0)] = 50,
) -> None:
    """Print the end of a server's log."""
    path = local.log_path(load_settings(), name)
    if not path.exists():
        raise ServerError(f"{path}: no such log: {name} was never started here")
    with path.open(errors="replace") as log:
        sys.stdout.writelines(deque(log, maxlen=lines))
        while follow:
            print(log.read(), end="", flush=True)
            time.sleep(FOLLOW_S)
