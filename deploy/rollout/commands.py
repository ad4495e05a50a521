"""Commands to the controller, signed with the admin token, which itself never travels."""

from __future__ import annotations

import hashlib
import hmac
import time
from uuid import uuid4

import msgspec
from headwater_client.events import encode

from deploy.rollout.decision import RefusedError
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Action, RolloutCommand

# Whoever gave an older command has been told that no controller answers, and it must not be
# obeyed behind their back; or somebody has recorded it, or the sender's clock is wrong.
OLDEST_S = 30.0


def command(
    rules: RolloutSettings,
    model: str,
    action: Action,
    actor: str,
    reason: str,
    version: int | None = None,
    address: str | None = None,
) -> RolloutCommand:
    """A signed command.

    Raises:
        RefusedError: there is no admin token, or no name or reason.
    """
    if not actor.strip() or not reason.strip():
        raise RefusedError(f"{action}: a name and a reason are needed: they stay in the history")
    unsigned = RolloutCommand(
        command_id=uuid4().hex,
        model=model,
        action=action,
        actor=actor.strip(),
        reason=reason.strip(),
        time=int(time.time() * 1000),
        version=version,
        address=address,
    )
    return msgspec.structs.replace(unsigned, signature=_signature(unsigned, _token(rules, action)))


def check(asked: RolloutCommand, rules: RolloutSettings, now_ms: int) -> None:
    """See that a command was given by somebody who has the token, just now.

    Raises:
        RefusedError: it was not.
    """
    expected = _signature(asked, _token(rules, asked.action))
    if not hmac.compare_digest(expected.encode(), asked.signature.encode()):
        raise RefusedError(
            f"{asked.action}: signed with another admin token than the controller's: set "
            "rollout.admin_token to the same there and here"
        )
    if abs(now_ms - asked.time) > 1000 * OLDEST_S:
        raise RefusedError(f"{asked.action}: was given {(now_ms - asked.time) / 1000:.0f} s ago")


def _token(rules: RolloutSettings, action: Action) -> bytes:
    token = rules.admin_token.get_secret_value() if rules.admin_token else ""
    if not token:
        raise RefusedError(
            f"{action}: needs the admin token: set rollout.admin_token "
            "(HEADWATER_ROLLOUT__ADMIN_TOKEN)"
        )
    return token.encode()


def _signature(asked: RolloutCommand, token: bytes) -> str:
    unsigned = msgspec.structs.replace(asked, signature="")
    return hmac.new(token, encode(unsigned), hashlib.sha256).hexdigest()
