"""`headwater rollout start`, `status`, `promote`, `rollback`, `pause`, `resume` and `history`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deploy.settings import Settings
    from features.rollout_messages import Action

app = typer.Typer(help="A canary's rollout: start one, look at it, steer it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Actor = Annotated[str, typer.Option("--by", help="who asks; stays in the history")]
Reason = Annotated[str, typer.Option("--reason", help="why; stays in the history")]


@app.command()
def start(
    version: Annotated[int, typer.Argument(help="number of the version to try out", min=1)],
    by: Actor,
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Try a version out: load it, and give it a growing share of people while figures allow."""
    from deploy.jobs.start_rollout import loaded
    from features.rollout_messages import Action

    settings = _settings(triton=True)
    candidate = loaded(settings, version)
    _ask(settings, Action.START, by, reason, as_json, version, candidate.address)


@app.command()
def promote(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Give the canary to everyone now."""
    from features.rollout_messages import Action

    _ask(_settings(), Action.PROMOTE, by, reason, as_json)


@app.command()
def rollback(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Give everyone the stable version now."""
    from features.rollout_messages import Action

    _ask(_settings(), Action.ROLLBACK, by, reason, as_json)


@app.command()
def pause(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Keep the share as it is; guards go on watching."""
    from features.rollout_messages import Action

    _ask(_settings(), Action.PAUSE, by, reason, as_json)


@app.command()
def resume(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Go on after a pause."""
    from features.rollout_messages import Action

    _ask(_settings(), Action.RESUME, by, reason, as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Who gets which version now."""
    import msgspec
    from headwater_client.errors import DataError
    from rich.console import Console

    from deploy.rollout.requests import history
    from deploy.rollout.tables import status_table
    from features.inputs import MODEL_NAME

    current = history(_settings().kafka, MODEL_NAME).current
    if current is None:
        raise DataError("no version is live: train a first one: headwater train")
    if as_json:
        print(msgspec.json.encode(current).decode())
    else:
        Console().print(status_table(current))


@app.command("history")
def show_history(
    as_json: AsJson = False,
    last: Annotated[int, typer.Option(help="only so many steps", min=1)] = 50,
) -> None:
    """Show each step of the rollouts, who took it, and the figures that it was taken on."""
    import msgspec
    from rich.console import Console

    from deploy.rollout import tables
    from deploy.rollout.requests import history
    from features.inputs import MODEL_NAME

    found = history(_settings().kafka, MODEL_NAME)
    steps = found.steps[-last:]
    if as_json:
        rows = {"steps": [tables.as_json(step) for step in steps], "refused": found.refused}
        print(msgspec.json.encode(rows).decode())
        return
    Console().print(tables.history_table(steps))
    for answer in found.refused[-last:]:
        print(f"refused: {answer.reason}")


def _settings(*, triton: bool = False) -> Settings:
    from deploy import local
    from deploy.settings import load_settings

    return local.connect(load_settings(), only=["kafka", *(["triton"] if triton else [])])


def _ask(
    settings: Settings,
    action: Action,
    by: str,
    reason: str,
    as_json: bool,
    version: int | None = None,
    address: str | None = None,
) -> None:
    import msgspec

    from deploy.rollout.commands import command
    from deploy.rollout.requests import ask
    from features.inputs import MODEL_NAME

    asked = command(settings.rollout, MODEL_NAME, action, by, reason, version, address)
    answer = ask(settings.kafka, asked)
    print(msgspec.json.encode(answer).decode() if as_json else answer.reason)
