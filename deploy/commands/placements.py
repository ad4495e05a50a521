"""`headwater placements`: what the lists of a place are made by."""

from typing import Annotated

import typer
from headwater_client.contract import Fallback, PlacementRules
from headwater_client.errors import SettingsError
from rich.console import Console

from deploy import local
from deploy.settings import load_settings
from features.kafka import ensure_topics
from features.placement_topic import read_placements, write_placement
from features.rules.errors import RuleError
from features.settings import BrokerSettings

app = typer.Typer(
    help="Placements: named rules that the lists of a page are made by.",
    no_args_is_help=True,
    add_completion=False,
)
Name = Annotated[str, typer.Argument(help="of the placement, such as home, product or cart")]


@app.command()
def put(
    name: Name,
    filter_text: Annotated[
        str | None, typer.Option("--filter", help="what may be in its lists (docs/how-to/rules.md)")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="items of a list", min=1, max=100)] = None,
    fallback: Annotated[
        Fallback, typer.Option(help="what is shown where no version answers")
    ] = Fallback.POPULAR,
) -> None:
    """Make a placement, or change it whole; services follow at once."""
    placement = PlacementRules(filter=filter_text, limit=limit, fallback=fallback)
    try:
        revision = write_placement(_kafka(), name, placement)
    except RuleError as error:
        raise SettingsError(f"--filter: {error}: {error.near}") from error
    print(f"{name}: revision {revision}")


@app.command("list")
def list_placements() -> None:
    """List the placements."""
    for each in read_placements(_kafka()).known.values():
        _print(each.name, each.revision, each.placement)


@app.command()
def show(name: Name) -> None:
    """Show one placement."""
    known = read_placements(_kafka()).known
    if name not in known:
        raise _unknown(name, list(known))
    _print(name, known[name].revision, known[name].placement)


@app.command()
def remove(name: Name) -> None:
    """Remove a placement: requests that name it are refused from then on."""
    settings = _kafka()
    known = read_placements(settings).known
    if name not in known:
        raise _unknown(name, list(known))
    write_placement(settings, name, None)


def _kafka() -> BrokerSettings:
    settings = local.connect(load_settings()).kafka
    ensure_topics(settings)
    return settings


def _unknown(name: str, known: list[str]) -> SettingsError:
    there = ", ".join(sorted(known)) or "none"
    return SettingsError(f"no placement is named {name}: there are {there}")


def _print(name: str, revision: int, placement: PlacementRules) -> None:
    limit = "worker.top_k" if placement.limit is None else placement.limit
    text = f"{name}: revision {revision}, limit {limit}, fallback {placement.fallback}"
    told = f"{text}, filter {placement.filter}" if placement.filter else text
    Console(highlight=False, soft_wrap=True).print(told, markup=False)
