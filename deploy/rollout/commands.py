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
from headwater_client.errors import HeadwaterError
from headwater_client.events import encode

from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import RolloutAction, RolloutCommand

# Whoever sent an older command has been told that no controller answers, so it must not take effect
# any more; it may also be a recorded one that is sent again, or the sender's clock may be wrong.
MAX_AGE_S = 30.0


class CommandRejectedError(HeadwaterError):
    """A command cannot be carried out on this rollout."""


class FencedError(HeadwaterError):
    """Another controller leads now; what this one was about to write was not written."""


@dataclass(frozen=True)
class CommandRequest:
    """What is asked of the controller, before it is signed.

    Attributes:
        actor, reason: who asks and why; both stay in the history.
        version, address: of the candidate, for `start`.
    """

    model: str
    action: RolloutAction
    actor: str
    reason: str
    version: int | None = None
    address: str | None = None


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
        command_id=uuid4().hex,
        model=request.model,
        action=action,
        actor=actor,
        reason=reason,
        time=int(time.time() * 1000),
        version=request.version,
        address=request.address,
    )
    return msgspec.structs.replace(unsigned, signature=_signature(unsigned, _token(rules, action)))


def verify_command(command: RolloutCommand, rules: RolloutSettings, now_ms: int) -> None:
    """Check that a command was signed by somebody who has the token, just now.

    Raises:
        CommandRejectedError: it was not.
    """
    expected = _signature(command, _token(rules, command.action))
    if not hmac.compare_digest(expected.encode(), command.signature.encode()):
        raise CommandRejectedError(
            f"{command.action}: signed with another admin token than the controller's: set "
            "rollout.admin_token to the same there and here"
        )
    if abs(now_ms - command.time) > 1000 * MAX_AGE_S:
        raise CommandRejectedError(
            f"{command.action}: was given {(now_ms - command.time) / 1000:.0f} s ago"
        )


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
