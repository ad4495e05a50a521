"""Who gets which version."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from headwater_client.errors import SettingsError

from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.schema import FeatureSchema, Vocabulary
from features.settings import FeatureSettings
from stream.routing import Assignment, Routes

PEOPLE = [f"u{n}" for n in range(4000)]


def rollout(rollout_id: str = "r1", **shares: float) -> Rollout:
    versions = [
        RoutedVersion(version=at, variant=name, share=share, address=f"memory://{name}")
        for at, (name, share) in enumerate(shares.items(), 1)
    ]
    return Rollout(model="m", versions=versions, time=1_700_000_000_000, rollout_id=rollout_id)


def routes() -> Routes:
    return Routes("m", load=lambda address: Vocabulary([address]))


def assignment(found: Routes, user_id: str) -> Assignment:
    route = found.assign(user_id)
    assert route
    return route


def variants(found: Routes) -> dict[str, str]:
    return {user: assignment(found, user).shown.version.variant for user in PEOPLE}


def test_without_a_rollout_there_is_no_route() -> None:
    assert routes().assign("u") is None


def test_shares_hold_and_a_restarted_worker_deals_alike() -> None:
    dealt = []
    for worker in (routes(), routes()):
        worker.follow(rollout(stable=0.5, canary=0.25, baseline=0.25))
        dealt.append(variants(worker))
    assert dealt[0] == dealt[1]
    named = list(dealt[0].values())
    assert all(0.22 < named.count(name) / len(named) < 0.28 for name in ("canary", "baseline"))


def test_nobody_leaves_a_variant_while_shares_grow() -> None:
    found = routes()
    before: dict[str, str] = {}
    for share in (0.01, 0.05, 0.25, 0.5):
        found.follow(rollout(stable=1 - 2 * share, canary=share, baseline=share))
        now = variants(found)
        assert all(now[u] == v for u, v in before.items() if v != "stable")
        before = now
    assert set(before.values()) == {"canary", "baseline"}


def test_another_rollout_deals_anew() -> None:
    found = routes()
    people = []
    for name in ("r1", "r2"):
        found.follow(rollout(name, stable=0, canary=0.5, baseline=0.5))
        people.append({u for u, v in variants(found).items() if v == "canary"})
    both = len(people[0] & people[1]) / len(PEOPLE)
    assert 0.2 < both < 0.3


def test_a_shadow_is_asked_of_its_share_and_never_shown() -> None:
    found = routes()
    found.follow(rollout(stable=1, shadow=0.2))
    asked = [user for user in PEOPLE if assignment(found, user).shadow]
    assert set(variants(found).values()) == {"stable"}
    assert 0.17 < len(asked) / len(PEOPLE) < 0.23


def test_a_version_whose_vocabulary_cannot_be_read_changes_nothing() -> None:
    def load(address: str) -> Vocabulary:
        if "canary" in address:
            raise OSError(address)
        return Vocabulary(["a"])

    found = Routes("m", load=load)
    found.follow(rollout(stable=1.0))
    with pytest.raises(OSError, match="canary"):
        found.follow(rollout(stable=0.5, canary=0.5))
    assert set(variants(found).values()) == {"stable"}


def test_a_rollout_without_a_stable_version_changes_nothing() -> None:
    found = routes()
    found.follow(rollout(stable=1.0))
    with pytest.raises(ValueError, match="stable"):
        found.follow(rollout(canary=0.5))
    assert set(variants(found).values()) == {"stable"}


def test_a_version_of_other_features_is_refused_and_the_routes_stay(tmp_path: Path) -> None:
    expected = FeatureSchema(FeatureSettings(history_length=8)).contract
    manifest = msgspec.json.encode({"contract": expected})
    (tmp_path / "manifest.json").write_bytes(manifest)
    contract = FeatureSchema(FeatureSettings()).contract
    found = Routes("m", contract, load=lambda _: Vocabulary([]))
    with pytest.raises(SettingsError, match="history_length 8, not 64: set features as they were"):
        found.follow(stable_rollout(tmp_path.as_uri()))
    assert found.stable is None
    matching = Routes("m", expected, load=lambda _: Vocabulary([]))
    matching.follow(stable_rollout(tmp_path.as_uri()))
    assert matching.stable is not None


def stable_rollout(address: str) -> Rollout:
    version = RoutedVersion(version=1, variant=Variant.STABLE, share=1.0, address=address)
    return Rollout(model="m", versions=[version], time=0)
