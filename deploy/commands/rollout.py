"""`headwater rollout`: `start` one, look at it (`status`, `history`), `promote` it and so on."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, NamedTuple

import msgspec
import typer
from headwater_client.contract import PlacementRules
from headwater_client.errors import DataError
from rich.console import Console

from deploy import local
from deploy.rollout import CommandRejectedError, CommandRequest, sign_command, tables, topic
from deploy.rollout.feedback.consumer import sample_placement
from deploy.rollout.history import share_of
from deploy.rollout.tables import status_table
from deploy.rollout.topic import read_history, send_command, sign_current
from deploy.settings import Settings, load_settings
from features.inputs import MODEL_NAME
from features.placements import check_placement
from features.rollout_messages import RolloutAction, placement_subject

app = typer.Typer(
    help="A canary's rollout: start one, look at it, steer it.",
    no_args_is_help=True,
    add_completion=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Actor = Annotated[str, typer.Option("--by", help="who asks; stays in the history")]
Reason = Annotated[str, typer.Option("--reason", help="why; stays in the history")]
OnTrial = Annotated[
    int | None,
    typer.Argument(help="act only if the rollout is of this version", min=1),
]
OfPlacement = Annotated[
    str | None,
    typer.Option("--placement", help="of its rules (headwater placements try), not of a version"),
]


@app.command()
def start(
    version: Annotated[int, typer.Argument(help="number of the version to try out", min=1)],
    by: Actor,
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Try a version out: load it, and give it a growing share of people while figures allow."""
    # torch takes seconds to import, and who only steers may not have it.
    from deploy.jobs.train import load_candidate  # noqa: PLC0415

    settings = _settings(triton=True)
    address = load_candidate(settings, version).address
    request = CommandRequest(MODEL_NAME, RolloutAction.START, by, reason)
    _send(settings, replace(request, version=version, address=address), as_json)


STEERING = {
    RolloutAction.PROMOTE: "Give the canary to everyone now; rules that were tried out become the "
    "placement's.",
    RolloutAction.ROLLBACK: "Give everyone the stable version now, or the placement's rules as "
    "they were.",
    RolloutAction.PAUSE: "Keep the share as it is; guards go on watching.",
    RolloutAction.RESUME: "Go on after a pause.",
}


def _make_steering(action: RolloutAction) -> Callable[..., None]:
    """The command that asks for an action: all take the same."""

    def steer(
        by: Actor,
        reason: Reason,
        version: OnTrial = None,
        placement: OfPlacement = None,
        as_json: AsJson = False,
    ) -> None:
        _steer(action, (by, reason), OnTrialNow(version, placement), as_json)

    return steer


for _action, _text in STEERING.items():
    app.command(_action.value, help=_text)(_make_steering(_action))


@app.command()
def sign() -> None:
    """Sign the newest rollout: needed once, after `kafka.signing_key` was set."""
    signed = sign_current(_settings().kafka, MODEL_NAME)
    Console().print(status_table(signed))


@app.command()
def status(placement: OfPlacement = None, as_json: AsJson = False) -> None:
    """Who gets which version now, why, and whether what people do can be credited."""
    settings, subject = _settings(), _subject(placement)
    history = read_history(settings.kafka, subject)
    current, steps = history.current, history.steps
    if current is None:
        raise DataError(_describe_nothing(history, placement))
    sample = sample_placement(settings.kafka, settings.events)
    if as_json:
        print(msgspec.json.encode(tables.status_as_json(current, steps, sample)).decode())
    else:
        Console().print(status_table(current))
        for line in tables.status_lines(current, steps, sample):
            print(line)
        if placement is None:
            _print_trials(settings)
    _print_breaks(history.breaks)


def _describe_nothing(history: topic.RolloutHistory, placement: str | None) -> str:
    """Why there is nothing to show, and what to do."""
    if placement:
        refused = f": the newest message is {history.refusal}" if history.refusal else ""
        return (
            f"placement {placement}: no other rules were tried out{refused}: headwater placements "
            f"try {placement} --help"
        )
    if history.refusal:
        return (
            f"no version is live: the newest rollout is {history.refusal}: if it is right, say so: "
            "headwater rollout sign"
        )
    return "no version is live: train a first one: headwater train"


def _print_trials(settings: Settings) -> None:
    """The placements of which other rules are tried out, a line each."""
    for name, trial in topic.read_trials(settings.kafka, MODEL_NAME).items():
        share = share_of(trial)
        print(
            f"placement {name}: {trial.phase}, {share:.0%}: headwater rollout status --placement "
            f"{name}"
        )


@app.command("history")
def show_history(
    placement: OfPlacement = None,
    as_json: AsJson = False,
    last: Annotated[int, typer.Option(help="only so many steps", min=1)] = 50,
) -> None:
    """Show each step of the rollouts, who took it, and the figures that it was taken on."""
    history = read_history(_settings().kafka, _subject(placement))
    steps = history.steps[-last:]
    if as_json:
        rows = {
            "steps": [tables.step_as_json(step) for step in steps],
            "refused": history.rejected,
            "breaks": history.breaks,
        }
        print(msgspec.json.encode(rows).decode())
        return
    Console().print(tables.history_table(steps))
    _print_breaks(history.breaks)
    for answer in history.rejected[-last:]:
        print(f"refused: {answer.reason}")


def _settings(*, triton: bool = False) -> Settings:
    return local.connect(load_settings(), only=["kafka", *(["triton"] if triton else [])])


def _print_breaks(breaks: list[str]) -> None:
    for each in breaks:
        print(f"headwater: history: {each}", file=sys.stderr)


def _subject(placement: str | None) -> str:
    """What the topic calls it.

    Raises:
        EventError: a placement cannot be called so.
    """
    if placement is None:
        return MODEL_NAME
    check_placement(placement, PlacementRules())
    return placement_subject(placement)


class OnTrialNow(NamedTuple):
    """Which rollout is meant.

    Attributes:
        version: None: whichever is tried out.
        placement: of whose rules; None: of a version of the model.
    """

    version: int | None
    placement: str | None


def _steer(action: RolloutAction, who: tuple[str, str], meant: OnTrialNow, as_json: bool) -> None:
    """Ask for something of the rollout that is under way as this command sees it."""
    settings, (version, placement) = _settings(), meant
    subject = _subject(placement)
    if version is not None and placement is not None:
        raise CommandRejectedError(f"{action}: {version}: rules of a placement have no number")
    current = read_history(settings.kafka, subject).current
    found = current.candidate if current else None
    if version is not None and (found is None or found.version != version):
        on_trial = f"version {found.version} is" if found else "none is"
        raise CommandRejectedError(f"{action}: version {version} is not tried out: {on_trial}")
    if current and found and version is None and sys.stdin.isatty() and not as_json:
        what = f"other rules of {placement}" if placement else f"version {found.version}"
        typer.confirm(
            f"{action} rollout {current.rollout_id} of {what}, which is {current.phase}?",
            abort=True,
        )
    request = replace(CommandRequest(subject, action, *who), seen=current)
    _send(settings, request, as_json)


def _send(settings: Settings, request: CommandRequest, as_json: bool) -> None:
    answer = send_command(settings.kafka, sign_command(settings.rollout, request))
    print(msgspec.json.encode(answer).decode() if as_json else answer.reason)
