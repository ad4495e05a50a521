"""Who gets which version."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest

from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.schema import FeatureSchema, Vocabulary
from features.settings import FeatureSettings
from stream.routing import MAX_READS, Assignment, BackgroundReads, Routes, VersionPendingError

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


def failing(*words: str) -> Routes:
    """Routes that cannot read addresses with one of these words in them."""

    def load(address: str) -> Vocabulary:
        if any(word in address for word in words):
            raise RuntimeError(f"no mount: {address}")
        return Vocabulary(["a"])

    return Routes("m", load=load)


@pytest.mark.parametrize("variant", ["canary", "shadow"])
def test_a_version_on_trial_that_cannot_be_read_is_left_out(variant: str) -> None:
    found = failing(variant)
    found.follow(rollout(stable=0.5, **{variant: 0.5}))
    assert set(variants(found).values()) == {"stable"}
    assert not any(assignment(found, user).shadow for user in PEOPLE)
    assert "RuntimeError: no mount" in found.problems[variant]
    assert found.loaded == {"stable": 1}
    assert [each.variant for each in found.versions_to_keep] == ["stable", variant]


def test_while_a_new_stable_version_cannot_be_read_the_one_before_answers_alone() -> None:
    found = failing("9")
    found.follow(rollout(stable=0.5, canary=0.5))
    newer = RoutedVersion(version=9, variant="stable", share=1, address="memory://9")
    found.follow(Rollout(model="m", versions=[newer], time=1_700_000_000_000))
    assert found.loaded == {"stable": 1}
    assert set(found.problems) == {"stable"}


def test_what_cannot_be_read_for_a_moment_comes_up_by_itself() -> None:
    tries = []

    def load(address: str) -> Vocabulary:
        tries.append(address)
        if len(tries) < 3:
            raise OSError("the mount is not there yet")
        return Vocabulary(["a"])

    found = Routes("m", load=load)
    found.follow(rollout(stable=1.0))
    assert found.stable is None
    found.refresh()
    assert found.assign("u") is None
    found.refresh()
    route = found.stable
    assert route is not None
    assert not found.problems
    found.refresh()
    assert found.stable is route
    assert len(tries) == 3


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rollout_that_no_controller_watches_is_not_shown() -> None:
    clock = Clock()
    found = Routes("m", load=lambda _: Vocabulary([]), clock=clock)
    for shares in ({"canary": 0.25, "baseline": 0.25, "stable": 0.5}, {"stable": 1, "shadow": 0.5}):
        found.follow(rollout(**shares), lease_s=60)
        clock.now_s += 59
        found.renew("another", 60)
        found.refresh()
        assert not found.lease_expired
        clock.now_s += 1
        found.refresh()
        assert found.lease_expired
        assert set(variants(found).values()) == {"stable"}
        assert found.loaded == {"stable": 1 if "shadow" in shares else 3}
        found.renew("r1", 60)
        assert not found.lease_expired
        assert set(found.loaded) == set(shares)


def test_a_version_that_everyone_gets_needs_no_controller() -> None:
    clock = Clock()
    found = Routes("m", load=lambda _: Vocabulary([]), clock=clock)
    found.follow(rollout(stable=1), lease_s=60)
    clock.now_s += 1e6
    found.refresh()
    assert not found.lease_expired
    assert found.loaded == {"stable": 1}


def read_until_known(reads: BackgroundReads, address: str) -> Vocabulary:
    while True:
        try:
            return reads(address)
        except VersionPendingError:
            time.sleep(0.001)


def test_reads_wait_longer_after_each_failure() -> None:
    tries: list[float] = []
    clock = Clock()

    def read(address: str) -> Vocabulary:
        tries.append(clock.now_s)
        raise ImportError(f"{address}: no s3fs here")

    reads = BackgroundReads(read, clock=clock)
    for _ in range(100):
        with pytest.raises(ImportError, match="no s3fs"):
            read_until_known(reads, "s3://models/1")
        clock.now_s += 1
    assert tries[:5] == [0, 1, 4, 9, 18]


def test_an_address_that_never_answers_keeps_nobody_waiting() -> None:
    gate = threading.Event()
    clock = Clock()

    def read(address: str) -> Vocabulary:
        if address == "hangs":
            gate.wait()
        return Vocabulary([address])

    reads = BackgroundReads(read, timeout_s=60, clock=clock)
    try:
        with pytest.raises(VersionPendingError):
            reads("hangs")
        assert read_until_known(reads, "other").item_ids[-1] == "other"
        clock.now_s += 60
        with pytest.raises(TimeoutError, match="no answer in 60 s"):
            reads("hangs")
        for _ in range(100):
            clock.now_s += 60
            with pytest.raises((TimeoutError, VersionPendingError)):
                reads("hangs")
        assert sum(each.name == "version-read" for each in threading.enumerate()) <= MAX_READS
    finally:
        gate.set()
    for each in threading.enumerate():
        if each.name == "version-read":
            each.join()


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
    found.follow(stable_rollout(tmp_path.as_uri()))
    assert "history_length 8, not 64: set features as they were" in found.problems["stable"]
    assert found.stable is None
    matching = Routes("m", expected, load=lambda _: Vocabulary([]))
    matching.follow(stable_rollout(tmp_path.as_uri()))
    assert matching.stable is not None


def stable_rollout(address: str) -> Rollout:
    version = RoutedVersion(version=1, variant=Variant.STABLE, share=1.0, address=address)
    return Rollout(model="m", versions=[version], time=0)
