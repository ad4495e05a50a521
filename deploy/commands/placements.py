"""`headwater placements`: what the lists of a place are made by."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import typer
from headwater_client import EventError, decode, encode
from headwater_client.contract import Fallback, PlacementRules
from headwater_client.errors import SettingsError
from headwater_client.rules import Objective
from msgspec import structs
from rich.console import Console

from deploy import local
from deploy.rollout import CommandRequest, sign_command
from deploy.rollout.topic import send_command
from deploy.settings import Settings, load_settings
from features.kafka import ensure_topics
from features.placement_topic import read_placements, sign_placements, write_placement
from features.placements import check_placement
from features.rollout_messages import RolloutAction, placement_subject
from features.rules.errors import RuleError
from features.rules.plans import has_rules
from features.settings import BrokerSettings

app = typer.Typer(
    help="Placements: named rules that the lists of a page are made by.",
    no_args_is_help=True,
    add_completion=False,
)
Name = Annotated[str, typer.Argument(help="of the placement, such as home, product or cart")]
FilterOption = Annotated[
    str | None, typer.Option("--filter", help="what may be in its lists (docs/how-to/rules.md)")
]
LimitOption = Annotated[int | None, typer.Option(help="items of a list", min=1, max=100)]
FallbackOption = Annotated[
    Fallback | None,
    typer.Option(help="what is shown where no version answers: popular (default) or nothing"),
]
ObjectiveOption = Annotated[
    Objective | None,
    typer.Option(help="what a list is to earn: clicks (default), purchases or revenue"),
]
RulesOption = Annotated[
    typer.FileBinaryRead | None,
    typer.Option("--rules", help="JSON file of all rules: boosts, pins, ...; -: standard input"),
]


@app.command()
def put(  # noqa: PLR0913  (the rules of a placement)
    name: Name,
    filter_text: FilterOption = None,
    limit: LimitOption = None,
    fallback: FallbackOption = None,
    objective: ObjectiveOption = None,
    rules: RulesOption = None,
) -> None:
    """Make a placement, or change it whole; services follow at once."""
    given = {"filter": filter_text, "limit": limit, "fallback": fallback, "objective": objective}
    revision = write_placement(connect_kafka(), name, read_rules(name, rules, given))
    print(f"{name}: revision {revision}")


@app.command("try")
def try_out(  # noqa: PLR0913  (the rules of a placement, and who asks)
    name: Name,
    by: Annotated[str, typer.Option("--by", help="who asks; stays in the history")],
    reason: Annotated[str, typer.Option("--reason", help="why; stays in the history")],
    filter_text: FilterOption = None,
    limit: LimitOption = None,
    fallback: FallbackOption = None,
    objective: ObjectiveOption = None,
    file: RulesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Try other rules out: a growing share of people gets them while figures allow.

    They become the placement's where they are no worse, and go by themselves where they are.
    `headwater rollout status --placement NAME` says how it stands.
    """
    given = {"filter": filter_text, "limit": limit, "fallback": fallback, "objective": objective}
    rules = read_rules(name, file, given)
    settings = _connect()
    request = CommandRequest(placement_subject(name), RolloutAction.START, by, reason)
    command = sign_command(settings.rollout, replace(request, rules=rules))
    answer = send_command(settings.kafka, command)
    print(msgspec.json.encode(answer).decode() if as_json else answer.reason)


@app.command("list")
def list_placements() -> None:
    """List the placements."""
    for each in read_placements(connect_kafka()).known.values():
        _print(each.name, each.revision, each.placement)


@app.command()
def show(name: Name) -> None:
    """Show one placement."""
    known = read_placements(connect_kafka()).known
    if name not in known:
        raise _unknown(name, list(known))
    _print(name, known[name].revision, known[name].placement)


@app.command()
def remove(name: Name) -> None:
    """Remove a placement: requests that name it are refused from then on."""
    settings = connect_kafka()
    known = read_placements(settings).known
    if name not in known:
        raise _unknown(name, list(known))
    write_placement(settings, name, None)


@app.command()
def sign() -> None:
    """Sign placements and segments as they are: needed once, after `kafka.signing_key` was set."""
    signed = sign_placements(connect_kafka())
    print(f"signed: {', '.join(signed)}" if signed else "all that stands there is signed")


def read_rules(
    name: str, file: typer.FileBinaryRead | None, given: Mapping[str, Any]
) -> PlacementRules:
    """The rules of a file, with those that options say in their place.

    Raises:
        SettingsError: the file breaks the contract, or an expression cannot be used.
        EventError: a placement cannot be called so, or an attribute is none.
    """
    try:
        rules = PlacementRules() if file is None else decode(PlacementRules, file.read())
    except EventError as error:
        raise SettingsError(f"--rules: {error}") from error
    said = {field: value for field, value in given.items() if value is not None}
    rules = structs.replace(rules, **said)
    try:
        check_placement(name, rules)
    except RuleError as error:
        where = f"--{error.field}" if error.field in said else error.field
        raise SettingsError(f"{where}: {error}: {error.near}") from error
    return rules


def _connect() -> Settings:
    settings = local.connect(load_settings())
    ensure_topics(settings.kafka)
    return settings


def connect_kafka() -> BrokerSettings:
    """Where Kafka is, with its topics."""
    return _connect().kafka


def _unknown(name: str, known: list[str]) -> SettingsError:
    there = ", ".join(sorted(known)) or "none"
    return SettingsError(f"no placement is named {name}: there are {there}")


def _print(name: str, revision: int, placement: PlacementRules) -> None:
    limit = "worker.top_k" if placement.limit is None else placement.limit
    text = f"{name}: revision {revision}, limit {limit}, fallback {placement.fallback}"
    told = f"{text}, filter {placement.filter}" if placement.filter else text
    if has_rules(placement):
        plain = {"filter": None, "limit": None, "fallback": Fallback.POPULAR}
        told += f", rules {encode(structs.replace(placement, **plain)).decode()}"
    Console(highlight=False, soft_wrap=True).print(told, markup=False)
