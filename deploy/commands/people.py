"""`headwater export` and `headwater forget`: what people may ask of who holds data of them."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from headwater_client.contract import ErasurePlace
from rich.console import Console
from rich.table import Table

from deploy import local
from deploy.jobs.forget import PersonErasure, forget_person
from deploy.jobs.person_export import export_person
from deploy.services.supervisor import configure_logs
from deploy.settings import load_settings

NOT_YET = 3
"""The exit code where a place was not seen to be empty: that of a server that does not answer."""

Person = Annotated[str, typer.Argument(help="the id by which events name the person")]
Wait = Annotated[
    float, typer.Option(help="seconds that workers and the trainer are waited for", min=0)
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON, to be kept")]


def export(person: Person) -> None:
    """Print all that is known of a person, as JSON.

    What Kafka and the windows have of the person's events is read whole: it may take minutes.
    """
    configure_logs(only_warnings=True)
    settings = local.connect(load_settings(), only=["kafka", "store"])
    print(msgspec.json.format(msgspec.json.encode(export_person(settings, person))).decode())


def forget(person: Person, wait: Wait = 60.0, as_json: AsJson = False) -> None:
    """Forget a person, and print what became of each place.

    It may be said again: what was forgotten stays so. What the person does from then on is a new
    person's.
    """
    configure_logs(only_warnings=True)
    settings = local.connect(load_settings(), only=["kafka", "store"])
    found = forget_person(settings, person, wait)
    if as_json:
        print(msgspec.json.encode(found._asdict()).decode())
    else:
        _print_receipt(found)
    for place, why in found.waiting.items():
        print(f"headwater: {place}: {why}", file=sys.stderr)
    if found.waiting:
        raise typer.Exit(NOT_YET)


def _print_receipt(found: PersonErasure) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("place", "state", ""):
        table.add_column(name)
    for place in found.receipt.places:
        state = "waits" if place.place in found.waiting else _describe_state(place)
        table.add_row(place.place, state, place.about)
    console = Console()
    console.print(table, markup=False)
    console.print(f"erasure {found.receipt.erasure_id}", markup=False)


def _describe_state(place: ErasurePlace) -> str:
    if place.until is None:
        return place.state
    day = datetime.fromtimestamp(place.until / 1000, UTC).date()
    return f"{place.state} {day}"
