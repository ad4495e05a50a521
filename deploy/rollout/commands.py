"""Commands to the controller, signed with the admin token, which itself never travels.

The errors of rollouts are here, at the bottom of the package:

HeadwaterError (1)
├── CommandRejectedError   the controller, or the command line, does not carry a command out
└── FencedError            another controller leads now; nothing was written
"""

import hashlib
import hmac
import time
from dataclasses import dataclass
from uuid import uuid4

import msgspec
from headwater_client.contract import PlacementRules
from headwater_client.errors import HeadwaterError
from headwater_client.events import encode

from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Rollout, RolloutAction, RolloutCommand
from features.settings import LEAST_KEY_CHARS

# Whoever sent an older command has been told that no controller answers, so it must not take effect
# any more behind their back.
MAX_AGE_S = 30.0
# By the sender's clock. Answers are remembered for longer, so that a recorded command that is sent
# again is either known, or as old as this.
MAX_CLOCK_OFFSET_S = 3600.0
REMEMBERED_S = 24 * 3600.0


class CommandRejectedError(HeadwaterError):
    """A command cannot be carried out on this rollout."""


class FencedError(HeadwaterError):
    """Another controller leads now; what this one was about to write was not written."""


@dataclass(frozen=True)
class CommandRequest:
    """What is asked of the controller, before it is signed.

    Attributes:
        actor, reason: who asks and why; both stay in the history.
        model: the subject: a model, or a placement (`features.rollout_messages`).
        version, address: of the candidate, for `start`.
        rules: those to try out, for `start` of a placement.
        command_id: names what is asked: asked again under the same name it is done once. "": a new
            one.
        seen: the rollout that is meant, as it was when they looked; None for `start`.
    """

    model: str
    action: RolloutAction
    actor: str
    reason: str
    version: int | None = None
    address: str | None = None
    command_id: str = ""
    seen: Rollout | None = None
    rules: PlacementRules | None = None


@dataclass(frozen=True)
class ReceivedCommand:
    """A command, and when the broker took it; None where that is not known."""

    command: RolloutCommand
    arrived_ms: int | None = None


def sign_command(rules: RolloutSettings, request: CommandRequest) -> RolloutCommand:
    """A command that the controller accepts from whoever has the admin token.

    Raises:
        CommandRejectedError: there is no admin token, or no name or reason.
    """
    action, actor, reason = request.action, request.actor.strip(), request.reason.strip()
    if not actor or not reason:
        raise CommandRejectedError(
            f"{action}: a name and a reason are needed: they stay in the history"
        )
    unsigned = RolloutCommand(
        command_id=request.command_id or uuid4().hex,
        model=request.model,
        action=action,
        actor=actor,
        reason=reason,
        time=int(time.time() * 1000),
        version=request.version,
        address=request.address,
        rollout_id=request.seen.rollout_id if request.seen else "",
        sequence=request.seen.sequence if request.seen and request.seen.rollout_id else None,
        rules=request.rules,
    )
    return msgspec.structs.replace(unsigned, signature=_signature(unsigned, _token(rules, action)))


def verify_command(received: ReceivedCommand, rules: RolloutSettings, now_ms: int) -> None:
    """Check that a command was signed by somebody who has the token, just now.

    The broker says when that was; the sender's clock is believed only where the broker does not.
    A rollback that names its rollout is never too late: it is on the safe side.

    Raises:
        CommandRejectedError: it was not.
    """
    command = received.command
    expected = _signature(command, _token(rules, command.action))
    if not hmac.compare_digest(expected.encode(), command.signature.encode()):
        raise CommandRejectedError(
            f"{command.action}: signed with another admin token than the controller's: set "
            "rollout.admin_token to the same there and here"
        )
    if command.action is RolloutAction.ROLLBACK and command.rollout_id:
        return
    arrived_ms = command.time if received.arrived_ms is None else received.arrived_ms
    offset_s, age_s = (arrived_ms - command.time) / 1000, (now_ms - arrived_ms) / 1000
    if age_s > MAX_AGE_S or (received.arrived_ms is None and -age_s > MAX_AGE_S):
        raise CommandRejectedError(f"{command.action}: was given {age_s:.0f} s ago")
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        raise CommandRejectedError(
            f"{command.action}: was given {offset_s:.0f} s before it arrived, by the clock of who "
            "gave it: it is a copy of an old one, or that clock is wrong"
        )


def check_meaning(command: RolloutCommand, rollout_id: str, sequence: int) -> None:
    """Check that a command to the rollout that is under way was meant for it.

    Raises:
        CommandRejectedError: it was meant for another one, or it has moved on since they looked.
    """
    action, remedy = command.action, "look at it (headwater rollout status) and say it again"
    if not command.rollout_id:
        if action is not RolloutAction.ROLLBACK:
            raise CommandRejectedError(
                f"{action}: does not say which rollout is meant: the command line is of an older "
                "release than the controller"
            )
        return
    if command.rollout_id != rollout_id:
        raise CommandRejectedError(
            f"{action}: is meant for rollout {command.rollout_id}, but {rollout_id} is under way: "
            f"{remedy}"
        )
    if action in (RolloutAction.PROMOTE, RolloutAction.RESUME) and command.sequence != sequence:
        raise CommandRejectedError(
            f"{action}: rollout {rollout_id} was at step {command.sequence}, and is at {sequence} "
            f"by now: {remedy}"
        )


def is_short(rules: RolloutSettings) -> bool:
    """Whether the admin token can be guessed: who reads the topic may try as many as they like."""
    token = rules.admin_token
    return token is not None and len(token.get_secret_value()) < LEAST_KEY_CHARS


def _token(rules: RolloutSettings, action: RolloutAction) -> bytes:
    token = rules.admin_token.get_secret_value() if rules.admin_token else ""
    if not token:
        raise CommandRejectedError(
            f"{action}: needs the admin token: set rollout.admin_token "
            "(HEADWATER_ROLLOUT__ADMIN_TOKEN)"
        )
    return token.encode()


def _signature(command: RolloutCommand, token: bytes) -> str:
    unsigned = msgspec.structs.replace(command, signature="")
    return hmac.new(token, encode(unsigned), hashlib.sha256).hexdigest()
