"""`headwater rollout start`, `status`, `promote`, `rollback`, `pause`, `resume` and `history`."""

from dataclasses import replace
from typing import Annotated

import msgspec
import typer
from headwater_client.errors import DataError
from rich.console import Console

from deploy import local
from deploy.jobs.train import load_candidate
from deploy.rollout import CommandRequest, sign_command, tables
from deploy.rollout.tables import status_table
from deploy.rollout.topic import read_history, send_command
from deploy.settings import Settings, load_settings
from features.inputs import MODEL_NAME
from features.rollout_messages import RolloutAction

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
    settings = _settings(triton=True)
    address = load_candidate(settings, version).address
    request = _request(RolloutAction.START, by, reason)
    _send(settings, replace(request, version=version, address=address), as_json)


@app.command()
def promote(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Give the canary to everyone now."""
    _send(_settings(), _request(RolloutAction.PROMOTE, by, reason), as_json)


@app.command()
def rollback(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Give everyone the stable version now."""
    _send(_settings(), _request(RolloutAction.ROLLBACK, by, reason), as_json)


@app.command()
def pause(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Keep the share as it is; guards go on watching."""
    _send(_settings(), _request(RolloutAction.PAUSE, by, reason), as_json)


@app.command()
def resume(by: Actor, reason: Reason, as_json: AsJson = False) -> None:
    """Go on after a pause."""
    _send(_settings(), _request(RolloutAction.RESUME, by, reason), as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Who gets which version now."""
    current = read_history(_settings().kafka, MODEL_NAME).current
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
    history = read_history(_settings().kafka, MODEL_NAME)
    steps = history.steps[-last:]
    if as_json:
        rows = {"steps": [tables.step_as_json(step) for step in steps], "refused": history.rejected}
        print(msgspec.json.encode(rows).decode())
        return
    Console().print(tables.history_table(steps))
    for answer in history.rejected[-last:]:
        print(f"refused: {answer.reason}")


def _settings(*, triton: bool = False) -> Settings:

    return local.connect(load_settings(), only=["kafka", *(["triton"] if triton else [])])


def _request(action: RolloutAction, actor: str, reason: str) -> CommandRequest:

    return CommandRequest(MODEL_NAME, action, actor, reason)


def _send(settings: Settings, request: CommandRequest, as_json: bool) -> None:

    answer = send_command(settings.kafka, sign_command(settings.rollout, request))
    print(msgspec.json.encode(answer).decode() if as_json else answer.reason)
