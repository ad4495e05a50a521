"""`headwater segments`: people by a named condition, for filters and placements."""

from typing import Annotated

import typer
from headwater_client.contract import SegmentRules
from headwater_client.errors import SettingsError
from rich.console import Console

from deploy.commands.placements import connect_kafka
from features.placement_topic import read_placements, write_segment
from features.rules.errors import RuleError

app = typer.Typer(help="People by a named condition.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="of the segment, such as vip: filters say segment.vip")]


@app.command()
def put(
    name: Name,
    filter_text: Annotated[
        str,
        typer.Option("--filter", help="over person and context (docs/how-to/rules.md)"),
    ],
) -> None:
    """Make a segment, or change it; services follow at once."""
    try:
        revision = write_segment(connect_kafka(), name, SegmentRules(filter=filter_text))
    except RuleError as error:
        raise SettingsError(f"--filter: {error}: {error.near}") from error
    print(f"{name}: revision {revision}")


@app.command("list")
def list_segments() -> None:
    """List the segments."""
    console = Console(highlight=False, soft_wrap=True)
    for each in read_placements(connect_kafka()).segments.values():
        told = f"{each.name}: revision {each.revision}, filter {each.segment.filter}"
        console.print(told, markup=False)


@app.command()
def remove(name: Name) -> None:
    """Remove a segment that no placement asks for."""
    settings = connect_kafka()
    table = read_placements(settings)
    if name not in table.segments:
        there = ", ".join(sorted(table.segments)) or "none"
        raise SettingsError(f"no segment is named {name}: there are {there}")
    if users := table.find_users(name):
        raise SettingsError(f"{name} is asked for by {', '.join(users)}: change these first")
    write_segment(settings, name, None)
