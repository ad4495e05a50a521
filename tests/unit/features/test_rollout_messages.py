"""What may stand on `rollouts`, and what is refused there."""

from __future__ import annotations

import pytest
from headwater_client import EventError
from headwater_client.events import encode

from features.rollout_messages import (
    Rollout,
    RolloutStep,
    RoutedVersion,
    decode_rollout_message,
    history_key,
)


def version(variant: str, share: float) -> RoutedVersion:
    return RoutedVersion(version=1, variant=variant, share=share, address="memory://v")


def rollout(*versions: RoutedVersion) -> Rollout:
    return Rollout(model="m", versions=[*versions], time=1_700_000_000_000, rollout_id="r")


def test_each_kind_is_known_by_its_key() -> None:
    stable = rollout(version("stable", 1))
    step = RolloutStep(rollout=stable, actor="ann", reason="because")
    assert decode_rollout_message("m", encode(stable), "m") == stable
    assert decode_rollout_message(history_key(stable), encode(step), "m") == step
    assert decode_rollout_message("m/later-kind/1", b"{}", "m") is None
    assert decode_rollout_message("other", encode(stable), "m") is None


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        ([("stable", 0.8), ("canary", 0.4)], "shares add up to 120%"),
        ([("stable", 0.3), ("canary", 0.6)], "share 60% of canary"),
        ([("stable", 0.5), ("stable", 0.5)], "each may stand once"),
    ],
)
def test_impossible_shares_are_refused(versions: list[tuple[str, float]], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        rollout(*(version(*each) for each in versions))


def test_a_malformed_message_names_its_field() -> None:
    raw = (
        b'{"model":"m","time":1700000000000,'
        b'"versions":[{"version":0,"variant":"stable","share":1,"address":"a"}]}'
    )
    with pytest.raises(EventError, match=r"version 0: expected 1 or more"):
        decode_rollout_message("m", raw, "m")


def test_a_shadow_takes_no_share_from_the_others() -> None:
    assert rollout(version("stable", 1), version("shadow", 0.2)).version_for("shadow") is not None
