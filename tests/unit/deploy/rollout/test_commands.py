"""Who may give commands: who has the token, by name, with a reason, just now."""

from __future__ import annotations

import msgspec
import pytest
from headwater_client.events import encode
from msgspec.structs import replace

from deploy.rollout import RolloutSettings
from deploy.rollout.commands import (
    MAX_AGE_S,
    CommandRejectedError,
    CommandRequest,
    ReceivedCommand,
    check_meaning,
    is_short,
    sign_command,
    verify_command,
)
from features.rollout_messages import Rollout, RolloutAction, RolloutCommand, RoutedVersion

RULES = RolloutSettings.model_validate({"admin_token": "secret"})


def signed_command(rules: RolloutSettings = RULES) -> RolloutCommand:
    request = CommandRequest("m", RolloutAction.START, " ann ", "why not", 8, "memory://8")
    return sign_command(rules, request)


def test_a_signed_command_passes_and_the_token_does_not_travel() -> None:
    asked = signed_command()
    read = msgspec.json.decode(encode(asked), type=RolloutCommand)
    verify_command(ReceivedCommand(read), RULES, asked.time)
    assert asked.actor == "ann"
    assert b"secret" not in encode(asked)


@pytest.mark.parametrize(
    "change",
    [{"version": 9}, {"actor": "bob"}, {"signature": ""}, {"action": RolloutAction.PROMOTE}],
)
def test_what_was_changed_on_the_way_is_refused(change: dict[str, object]) -> None:
    asked = signed_command()
    with pytest.raises(CommandRejectedError, match="another admin token"):
        verify_command(ReceivedCommand(replace(asked, **change)), RULES, asked.time)


def test_without_the_token_nobody_commands() -> None:
    with pytest.raises(CommandRejectedError, match="HEADWATER_ROLLOUT__ADMIN_TOKEN"):
        signed_command(RolloutSettings())
    with pytest.raises(CommandRejectedError, match="admin token"):
        verify_command(ReceivedCommand(signed_command()), RolloutSettings(), 0)


@pytest.mark.parametrize("late_s", [MAX_AGE_S + 1, -MAX_AGE_S - 1])
def test_an_old_command_is_not_obeyed_behind_anyones_back(late_s: float) -> None:
    asked = signed_command()
    with pytest.raises(CommandRejectedError, match="was given"):
        verify_command(ReceivedCommand(asked), RULES, asked.time + int(1000 * late_s))


def test_the_age_of_a_command_is_the_brokers_to_say() -> None:
    """The clock of who gives it may be off; one that is off by more than an hour is a copy."""
    asked = signed_command()
    for offset_s in (-1800, 1800):
        arrived_ms = asked.time + 1000 * offset_s
        verify_command(ReceivedCommand(asked, arrived_ms), RULES, arrived_ms + 1000)
    with pytest.raises(CommandRejectedError, match="was given 31 s ago"):
        verify_command(ReceivedCommand(asked, asked.time), RULES, asked.time + 31_000)
    arrived_ms = asked.time + 3_700_000
    with pytest.raises(CommandRejectedError, match="copy of an old one"):
        verify_command(ReceivedCommand(asked, arrived_ms), RULES, arrived_ms)


def test_an_emergency_rollback_is_never_too_late() -> None:
    asked = steering(RolloutAction.ROLLBACK)
    verify_command(ReceivedCommand(asked), RULES, asked.time + 10**9)
    verify_command(ReceivedCommand(asked, asked.time + 10**9), RULES, asked.time)
    unbound = sign_command(RULES, CommandRequest("m", RolloutAction.ROLLBACK, "ann", "why"))
    with pytest.raises(CommandRejectedError, match="was given"):
        verify_command(ReceivedCommand(unbound), RULES, asked.time + 10**9)


def steering(action: RolloutAction, rollout_id: str = "8-1", sequence: int = 2) -> RolloutCommand:
    version = RoutedVersion(version=8, variant="stable", share=1, address="memory://8")
    seen = Rollout(
        model="m", versions=[version], time=10**12, rollout_id=rollout_id, sequence=sequence
    )
    return sign_command(RULES, CommandRequest("m", action, "ann", "why", seen=seen))


@pytest.mark.parametrize("action", [each for each in RolloutAction if each != "start"])
def test_what_is_meant_for_one_rollout_is_not_taken_by_the_next(action: RolloutAction) -> None:
    check_meaning(steering(action), "8-1", 2)
    with pytest.raises(CommandRejectedError, match="meant for rollout 8-1, but 9-2 is under way"):
        check_meaning(steering(action), "9-2", 2)


def test_a_version_is_promoted_as_it_was_seen() -> None:
    with pytest.raises(CommandRejectedError, match="was at step 2, and is at 3 by now"):
        check_meaning(steering(RolloutAction.PROMOTE), "8-1", 3)
    check_meaning(steering(RolloutAction.ROLLBACK), "8-1", 3)


def test_of_a_command_line_of_the_release_before_only_rollbacks_are_taken() -> None:
    for action in (RolloutAction.ROLLBACK, RolloutAction.PROMOTE):
        unbound = sign_command(RULES, CommandRequest("m", action, "ann", "why"))
        if action is RolloutAction.ROLLBACK:
            check_meaning(unbound, "8-1", 2)
        else:
            with pytest.raises(CommandRejectedError, match="older release"):
                check_meaning(unbound, "8-1", 2)


def test_a_short_token_is_said() -> None:
    assert is_short(RULES)
    assert not is_short(RolloutSettings.model_validate({"admin_token": "t" * 32}))
    assert not is_short(RolloutSettings())
