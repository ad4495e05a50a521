"""What the demo tries out, and when its log seems to end."""

from __future__ import annotations

import io

from headwater_client.actions import Return
from headwater_client.events import Click
from rich.console import Console

from deploy.demo.canary import canary_settings, describe_canary
from deploy.demo.run import _move_to_today
from deploy.demo.screen import Screen
from deploy.services.supervisor import environment
from deploy.settings import Settings
from features.events import current_ms
from features.settings import DAY_MS
from trainer.datasets import Log
from trainer.settings import Release

START_MS = 900_000_000_000


def test_the_log_seems_to_end_today_and_keeps_its_hours_and_gaps() -> None:
    click = Click(event_id="a", user_id="ann", item_id="x", timestamp=START_MS)
    back = Return(
        event_id="b",
        user_id="ann",
        item_id="x",
        timestamp=START_MS + 7000,
        taken_time=START_MS,
    )
    log = Log(events=[click, back], items=[])
    written = io.StringIO()
    first, last = _move_to_today(log, Screen({}, Console(file=written))).events
    assert 0 <= current_ms() - last.timestamp < DAY_MS
    assert last.timestamp - first.timestamp == 7000
    assert (first.timestamp - START_MS) % DAY_MS == 0
    assert getattr(last, "taken_time", None) == first.timestamp
    assert "to end today" in written.getvalue()
    # What is of today stays.
    assert _move_to_today(
        Log(events=[first, last], items=[]), Screen({}, Console(file=written))
    ).events == [first, last]


def test_who_is_supervised_has_the_rules_of_the_canary() -> None:
    settings = canary_settings(Settings(), 500)
    assert settings.trainer.release is Release.CANARY
    variables = environment(settings)
    assert variables["HEADWATER_ROLLOUT__STEPS"] == "[0.25, 0.5]"
    assert variables["HEADWATER_TRAINER__RELEASE"] == "canary"
    assert variables["HEADWATER_WINDOWS__MAX_EVENTS"] == "500"
    token = settings.rollout.admin_token
    assert token
    assert variables["HEADWATER_ROLLOUT__ADMIN_TOKEN"] == token.get_secret_value()
    assert environment(Settings())["HEADWATER_ROLLOUT__ADMIN_TOKEN"] == ""


def test_how_it_went_is_said_as_far_as_it_is_known() -> None:
    told = {"state": "rolled_back", "reason": "worse", "change": -0.2, "bounds": [-0.3, -0.1]}
    assert describe_canary(told) == (
        "the canary is rolled back: its lists earned -20.0% beside those of the version before; "
        "chance allows from -30.0% to -10.0%"
    )
