"""Who gets which version."""

from __future__ import annotations

import pytest

from features.events import Rollout, RoutedVersion
from features.vocabulary import Vocabulary
from stream.routing import Routes


def rollout(**shares: float) -> Rollout:
    versions = [
        RoutedVersion(version=at, variant=name, share=share, address=f"memory://{name}")
        for at, (name, share) in enumerate(shares.items(), 1)
    ]
    return Rollout(model="m", versions=versions, time=1_700_000_000_000)


def routes() -> Routes:
    return Routes("m", load=lambda address: Vocabulary([address]))


def variant(found: Routes, user_id: str) -> str:
    route = found.route(user_id)
    assert route
    return route.version.variant


def test_without_a_rollout_there_is_no_route() -> None:
    assert routes().route("u") is None


def test_a_person_keeps_the_variant_and_shares_hold() -> None:
    found = routes()
    found.follow(rollout(canary=0.25, stable=0.75))
    people = [f"u{n}" for n in range(4000)]
    first = [variant(found, user) for user in people]
    assert first == [variant(found, user) for user in people]
    assert 0.22 < first.count("canary") / len(people) < 0.28


def test_nobody_leaves_the_canary_when_its_share_grows() -> None:
    found = routes()
    people = [f"u{n}" for n in range(1000)]
    found.follow(rollout(canary=0.1, stable=0.9))
    early = {user for user in people if variant(found, user) == "canary"}
    found.follow(rollout(canary=0.5, stable=0.5))
    late = {user for user in people if variant(found, user) == "canary"}
    assert early < late


def test_a_version_whose_vocabulary_cannot_be_read_changes_nothing() -> None:
    def load(address: str) -> Vocabulary:
        if "broken" in address:
            raise OSError(address)
        return Vocabulary(["a"])

    found = Routes("m", load)
    found.follow(rollout(stable=1.0))
    with pytest.raises(OSError, match="broken"):
        found.follow(rollout(broken=1.0))
    assert variant(found, "u") == "stable"
