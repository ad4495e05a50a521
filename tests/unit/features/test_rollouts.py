"""Which messages on `rollouts` count, whoever wrote them."""

from __future__ import annotations

import json

import msgspec
import pytest
from confluent_kafka import Message
from headwater_client.contract import PlacementRules
from headwater_client.events import encode
from headwater_client.topics import ROLLOUTS
from msgspec.structs import replace

from features.rollout_messages import (
    Rollout,
    RolloutAnswer,
    RolloutLease,
    RolloutMessage,
    RolloutStep,
    RoutedVersion,
    answer_key,
    history_key,
    lease_key,
    placement_subject,
)
from features.rollouts import MAX_SUBJECTS, RolloutReader, SubjectReaders
from features.settings import BrokerSettings
from features.signing import signature_headers
from tests.harness.messages import make_message

OPEN = BrokerSettings()
SIGNED = BrokerSettings.model_validate({"signing_key": "k" * 32})
OTHERS = BrokerSettings.model_validate({"signing_key": "l" * 32})
TIME = 1_700_000_000_000


def rollout(version: int = 1, revision: int = 0, model: str = "m") -> Rollout:
    routed = RoutedVersion(
        version=version, variant="stable", share=1, address=f"memory://{version}"
    )
    return Rollout(model=model, versions=[routed], time=TIME, rollout_id="r", revision=revision)


def lease(sequence: int) -> RolloutLease:
    return RolloutLease(model="m", rollout_id="r", sequence=sequence, time=TIME)


def key_of(message: RolloutMessage) -> str:
    match message:
        case Rollout():
            return "m"
        case RolloutLease():
            return lease_key("m")
        case RolloutStep():
            return history_key(message.rollout)
        case _:
            return answer_key("m", message.command_id)


def written(message: RolloutMessage, by: BrokerSettings = OPEN) -> Message:
    """A message as it stands in Kafka."""
    key, value = key_of(message), encode(message)
    headers = list(signature_headers(by, ROLLOUTS, key, value))
    return make_message(ROLLOUTS, key=key.encode(), value=value, headers=headers, offset=1)


@pytest.mark.parametrize(
    "message",
    [
        rollout(2, 5),
        lease(1),
        RolloutStep(rollout=rollout(2, 5), actor="ann", reason="why"),
        RolloutAnswer(command_id="c", accepted=True, reason="why", time=TIME),
    ],
    ids=lambda each: type(each).__name__,
)
def test_where_a_key_is_set_what_others_wrote_changes_nothing(message: RolloutMessage) -> None:
    assert RolloutReader(SIGNED, "m").read(written(message, SIGNED)) == message
    for by in (OPEN, OTHERS):
        reader = RolloutReader(SIGNED, "m")
        assert reader.read(written(message, by)) is None
        assert (reader.revision, reader.step_digest, reader.lease_sequence) == (0, "", 0)
    assert RolloutReader(OPEN, "m").read(written(message, SIGNED)) == message


def test_a_signature_is_of_one_key_and_one_value() -> None:
    message = written(rollout(2, 5), SIGNED)
    value = (message.value() or b"").replace(b"memory://2", b"memory://9")
    changed = make_message(
        ROLLOUTS, key=b"m", value=value, headers=message.headers() or (), offset=1
    )
    assert RolloutReader(SIGNED, "m").read(changed) is None
    moved = written(rollout(2, 5, model="m2"), SIGNED)
    assert RolloutReader(SIGNED, "m").read(moved) is None


def test_an_older_message_that_comes_later_is_not_followed() -> None:
    for settings in (OPEN, SIGNED):
        reader = RolloutReader(settings, "m")
        assert reader.read(written(rollout(9, 5), settings))
        assert reader.read(written(rollout(8, 4), settings)) is None
        assert reader.read(written(rollout(8, 5), settings)) is None
        assert (reader.refusal, reader.needs_restoring) == ("old", True)
        assert reader.read(written(rollout(8, 6), settings))
        assert (reader.refusal, reader.needs_restoring) == ("", False)
        assert reader.read(written(lease(3), settings))
        assert reader.read(written(lease(3), settings)) is None


def test_a_step_is_not_taken_twice() -> None:
    reader = RolloutReader(SIGNED, "m")
    first, second = (
        RolloutStep(rollout=rollout(revision=at), actor="ann", reason="why") for at in (1, 2)
    )
    for step in (first, second):
        assert reader.read(written(step, SIGNED)) == step
    assert reader.read(written(first, SIGNED)) is None


def test_without_a_key_what_release_0_1_0_writes_is_followed() -> None:
    reader = RolloutReader(OPEN, "m")
    assert reader.read(written(rollout(2, 7)))
    assert reader.read(written(rollout(1)))
    assert reader.revision == 0
    assert RolloutReader(SIGNED, "m").read(written(rollout(1))) is None


def hostile() -> list[bytes]:
    depth = 20_000
    fine = json.loads(encode(rollout()))
    return [
        b"[" * depth + b"]" * depth,
        b'{"model":"m","x":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}",
        b"",
        b"null",
        b"\xff\xfe",
        b'{"model": "m", "versions": []}',
        json.dumps(fine | {"versions": fine["versions"] * 100}).encode(),
        json.dumps(fine | {"time": 10**400}).encode(),
        json.dumps(fine | {"state": "warped"}).encode(),
        *(json.dumps({k: v for k, v in fine.items() if k != gone}).encode() for gone in fine),
        *(
            json.dumps(fine | {name: bad}).encode()
            for name in fine
            for bad in ([], {}, -1, "x" * 9000)
        ),
    ]


@pytest.mark.parametrize("key", ["m", "m/lease", "m/history/r/000001", "m/command/c", "m/answer/c"])
def test_nothing_that_stands_there_raises(key: str) -> None:
    for settings in (OPEN, SIGNED):
        reader = RolloutReader(settings, "m")
        for value in hostile():
            message = make_message(ROLLOUTS, key=key.encode(), value=value, offset=1)
            reader.read(message)
        for odd in (b"\xff\xff", b"m/" + b"x" * 100_000):
            assert reader.read(make_message(ROLLOUTS, key=odd, value=b"{}", offset=1)) is None
        assert reader.revision == 0


def test_a_later_release_may_say_more() -> None:
    more = msgspec.json.decode(encode(rollout(2, 5))) | {"colour": "blue"}
    value = msgspec.json.encode(more)
    headers = list(signature_headers(SIGNED, ROLLOUTS, "m", value))
    message = make_message(ROLLOUTS, key=b"m", value=value, headers=headers, offset=1)
    assert RolloutReader(SIGNED, "m").read(message) == rollout(2, 5)


def test_a_key_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="has 5 characters: take at least 32") as raised:
        BrokerSettings.model_validate({"signing_key": "short"})
    assert "short" not in str(raised.value).split("input_value")[0]
    assert "k" * 32 not in str(SIGNED)


def at_key(message: Rollout, by: BrokerSettings) -> Message:
    """What is tried out of a subject, under the subject's own key."""
    key, value = message.model, encode(message)
    headers = list(signature_headers(by, ROLLOUTS, key, value))
    return make_message(ROLLOUTS, key=key.encode(), value=value, headers=headers, offset=1)


def tried(name: str, revision: int, limit: int = 3) -> Rollout:
    stable = RoutedVersion(version=0, variant="stable", share=0.5, address="a")
    canary = replace(stable, variant="canary", rules=PlacementRules(limit=limit))
    versions, subject = [stable, canary], placement_subject(name)
    return Rollout(model=subject, versions=versions, time=TIME, rollout_id="t", revision=revision)


def test_placements_are_subjects_beside_the_model_each_with_a_count_of_its_own() -> None:
    readers, found = SubjectReaders(SIGNED, "m"), []
    for message in (rollout(2, 5), tried("cart", 1), tried("home", 1), tried("cart", 2)):
        written_there = at_key(message, SIGNED)
        reader = readers.find(written_there)
        assert reader is not None
        assert reader.read(written_there) == message
        found.append(reader.model)
    assert found == ["m", "placement:cart", "placement:home", "placement:cart"]
    again = (readers.find(at_key(tried("cart", 9), by)) for by in (SIGNED, OPEN))
    assert len(set(map(id, again))) == 1


def test_one_message_of_somebody_without_the_key_tries_nothing_out() -> None:
    readers = SubjectReaders(SIGNED, "m")
    good = at_key(tried("cart", 1), SIGNED)
    reader = readers.find(good)
    assert reader is not None
    assert reader.read(good)
    forged = tried("cart", 2, limit=1)
    for message in (at_key(forged, OPEN), at_key(forged, OTHERS), good):
        assert reader.read(message) is None
    # A signature of one placement's rules is none of another's.
    moved = make_message(
        ROLLOUTS,
        key=placement_subject("home").encode(),
        value=good.value(),
        headers=good.headers() or (),
        offset=2,
    )
    other = readers.find(moved)
    assert other is not None
    assert other.read(moved) is None


def test_made_up_names_open_nothing() -> None:
    readers = SubjectReaders(OPEN, "m")
    for key in (b"m2", b"placement:", b"placement:Not A Name", b"placement:\xff", b"m:cart", b""):
        assert readers.find(make_message(ROLLOUTS, key=key, value=b"{}", offset=1)) is None
    for number in range(MAX_SUBJECTS + 5):
        readers.find(make_message(ROLLOUTS, key=f"placement:p{number}".encode(), value=b"{}"))
    assert readers.find(make_message(ROLLOUTS, key=b"placement:late", value=b"{}")) is None
