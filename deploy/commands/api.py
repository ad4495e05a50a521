"""`headwater api`, and `headwater keys`: who may ask it."""

from pathlib import Path
from typing import Annotated

import typer
from headwater_client.contract import Scope
from headwater_client.errors import SettingsError
from rich.console import Console

from deploy import local
from deploy.services.api import run_api
from deploy.services.supervisor import configure_logs
from deploy.settings import load_settings
from stream.api.keys import ApiKey, make_key, read_keys, write_keys

keys = typer.Typer(
    help="Keys of the HTTP API and the console: who may do what.",
    no_args_is_help=True,
    add_completion=False,
)

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="the file of keys; default: api.keys_file")
]


def api() -> None:
    """Run the HTTP API until it is stopped; any number of them may run."""
    configure_logs()
    settings = load_settings()
    is_local = not any(local.addresses(settings).values())
    run_api(local.connect(settings), is_local=is_local)


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="whose key it is: letters, digits, . _ -")],
    scope: Annotated[list[Scope], typer.Option(help="what it allows; may be repeated")],
    per_second: Annotated[
        float | None,
        typer.Option(help="requests a second that one process takes from it; default: no limit"),
    ] = None,
    file: KeysFile = None,
) -> None:
    """Make a key and print it. Only a hash of it is kept: it cannot be shown again."""
    path = _find_file(file)
    known = read_keys(path) if path.exists() else []
    if any(key.name == name for key in known):
        raise SettingsError(f"a key is named {name} already: headwater keys remove {name}")
    secret, key = make_key(name, scope, per_second)
    write_keys(path, [*known, key])
    print(secret)


@keys.command("list")
def list_keys(file: KeysFile = None) -> None:
    """List the keys."""
    for key in read_keys(_find_file(file)):
        Console(highlight=False, soft_wrap=True).print(_line(key), markup=False)


@keys.command()
def remove(
    name: Annotated[str, typer.Argument(help="as `keys list` shows it")], file: KeysFile = None
) -> None:
    """Revoke a key: the API refuses it from about a second later on."""
    path = _find_file(file)
    known = read_keys(path)
    left = [key for key in known if key.name != name]
    if len(left) == len(known):
        raise SettingsError(f"no key is named {name}: headwater keys list")
    write_keys(path, left)


def _find_file(given: Path | None) -> Path:
    path = given or load_settings().api.keys_file
    if path is None:
        raise SettingsError("no file of keys: set api.keys_file, or name one with --file")
    return path


def _line(key: ApiKey) -> str:
    rate = "" if key.per_second is None else f", {key.per_second:g} a second"
    return f"{key.name}: {', '.join(key.scopes)}{rate}"
