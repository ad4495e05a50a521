"""Who may give commands: who has the token, by name, with a reason, just now."""

from __future__ import annotations

import msgspec
import pytest
from headwater_client.events import encode

from deploy.rollout import RolloutSettings
from deploy.rollout.commands import (
    MAX_AGE_S,
    CommandRejectedError,
    CommandRequest,
    sign_command,
    verify_command,
)
from features.rollout_messages import RolloutAction, RolloutCommand

RULES = RolloutSettings.model_validate({"admin_token": "secret"})


def given(rules: RolloutSettings = RULES) -> RolloutCommand:
    request = CommandRequest("m", RolloutAction.START, " ann ", "why not", 8, "memory://8")
    return sign_command(rules, request)


def test_a_signed_command_passes_and_the_token_does_not_travel() -> None:
    asked = given()
    verify_command(msgspec.json.decode(encode(asked), type=RolloutCommand), RULES, asked.time)
    assert asked.actor == "ann"
    assert b"secret" not in encode(asked)


@pytest.mark.parametrize(
    "change",
    [{"version": 9}, {"actor": "bob"}, {"signature": ""}, {"action": RolloutAction.PROMOTE}],
)
def test_what_was_changed_on_the_way_is_refused(change: dict[str, object]) -> None:
    asked = given()
    with pytest.raises(CommandRejectedError, match="another admin token"):
        verify_command(msgspec.structs.replace(asked, **change), RULES, asked.time)


def test_without_the_token_nobody_commands() -> None:
    with pytest.raises(CommandRejectedError, match="HEADWATER_ROLLOUT__ADMIN_TOKEN"):
        given(RolloutSettings())
    with pytest.raises(CommandRejectedError, match="admin token"):
        verify_command(given(), RolloutSettings(), 0)


@pytest.mark.parametrize("late_s", [MAX_AGE_S + 1, -MAX_AGE_S - 1])
def test_an_old_command_is_not_obeyed_behind_anyones_back(late_s: float) -> None:
    asked = given()
    with pytest.raises(CommandRejectedError, match="was given"):
        verify_command(asked, RULES, asked.time + int(1000 * late_s))
