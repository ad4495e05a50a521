"""Which placement counts, whatever stands on the topic."""

from __future__ import annotations

import pytest
from confluent_kafka import Message
from headwater_client import EventError, SettingsError, encode
from headwater_client.contract import Fallback, PlacementRules
from headwater_client.topics import PLACEMENTS

from features.placement_topic import MAX_STRANGERS, OvertakenError, PlacementReader
from features.placements import PlacementTable, check_placement
from features.rules.errors import RuleError
from features.settings import BrokerSettings
from features.signing import FOLLOWS_HEADER, SIGNATURE_HEADER, signature_headers
from tests.harness.messages import make_message

OPEN = BrokerSettings()
SIGNED = BrokerSettings.model_validate({"signing_key": "k" * 32})
OTHERS = BrokerSettings.model_validate({"signing_key": "l" * 32})


def written(
    key: bytes | None,
    value: bytes | None,
    offset: int,
    by: BrokerSettings = OPEN,
    follows: int | None = None,
) -> Message:
    """A message as it stands in Kafka."""
    name = (key or b"").decode(errors="replace")
    headers = list(signature_headers(by, PLACEMENTS, name, value or b"", follows))
    return make_message(PLACEMENTS, key=key, value=value, headers=headers, offset=offset)


def read(
    *messages: tuple[bytes | None, bytes | None], settings: BrokerSettings = OPEN
) -> PlacementTable:
    reader = PlacementReader(settings)
    for offset, (key, value) in enumerate(messages):
        reader.take(written(key, value, offset))
    return reader.table


def test_the_newest_message_of_a_name_counts() -> None:
    rules = PlacementRules(filter="item.price < 5", limit=3, fallback=Fallback.NOTHING)
    found = read((b"home", b"{}"), (b"cart", b"{}"), (b"home", encode(rules)), (b"cart", None))
    assert list(found.known) == ["home"]
    assert (found.known["home"].placement, found.known["home"].revision) == (rules, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"home", b"no json"),
        (b"home", b'{"limits": 3}'),
        (b"home", b'{"limit": 0}'),
        (b"home", b'{"filter": "item.price <"}'),
        (b"Not a name", b"{}"),
        (b"\xff", b"{}"),
        (None, b"{}"),
    ],
)
def test_what_cannot_be_used_changes_nothing(key: bytes | None, value: bytes) -> None:
    found = read((b"home", b'{"limit": 3}'), (key, value))
    assert found.known.keys() == {"home"}
    assert found.known["home"].placement.limit == 3


def test_keys_of_strangers_fill_no_memory() -> None:
    reader = PlacementReader(SIGNED)
    reader.take(written(b"home", b"{}", 0, by=SIGNED))
    for number in range(50):
        reader.take(written(b"k" * 1_000 + b"%d" % number, b"{}", 1 + number))
    for number in range(MAX_STRANGERS + 50):
        reader.take(written(b"name-%d" % number, b"{}", 100 + number))
    assert len(reader._newest) == MAX_STRANGERS
    # Who has the key is heard whatever strangers have written.
    reader.take(written(b"cart", b"{}", 50_000, by=SIGNED))
    assert list(reader.table.known) == ["home", "cart"]


def test_what_is_older_than_what_is_known_changes_nothing() -> None:
    table = PlacementTable()
    table.take("home", PlacementRules(limit=2), 7)
    table.take("home", PlacementRules(limit=1), 6)
    table.take("home", None, 5)
    assert table.known["home"].placement.limit == 2
    table.take("home", None, 8)
    table.take("home", PlacementRules(limit=2), 7)
    assert not table.known


def test_a_placement_that_nobody_could_use_is_refused() -> None:
    check_placement("cart-2", PlacementRules(filter="true"))
    with pytest.raises(EventError, match="small letters"):
        check_placement("Cart", PlacementRules())
    with pytest.raises(RuleError, match="column 13"):
        check_placement("cart", PlacementRules(filter="item.price <"))


def test_where_a_key_is_set_what_others_wrote_changes_nothing() -> None:
    reader = PlacementReader(SIGNED)
    for at, by in enumerate((OPEN, OTHERS)):
        reader.take(written(b"home", b"{}", at, by))
        reader.take(written(b"segment/vip", b'{"filter": "person.vip"}', at + 2, by))
    assert {**reader.table.known, **reader.table.segments} == {}
    reader.take(written(b"home", b'{"limit": 3}', 5, SIGNED))
    reader.take(written(b"segment/vip", b'{"filter": "person.vip"}', 6, SIGNED))
    reader.take(written(b"home", b'{"limit": 4}', 7, OTHERS))
    reader.take(written(b"home", None, 8))
    assert reader.table.known["home"].placement.limit == 3
    assert list(reader.table.segments) == ["vip"]
    # Who has no key believes all.
    keyless = PlacementReader(OPEN)
    keyless.take(written(b"home", b'{"limit": 4}', 7, OTHERS))
    assert keyless.table.known["home"].placement.limit == 4


def test_a_signature_is_of_one_name_one_value_and_of_what_it_follows() -> None:
    signed = written(b"home", b'{"limit": 3}', 5, SIGNED, follows=2)
    headers = dict(signed.headers() or ())
    others = (
        (b"cart", signed.value(), headers),
        (b"home", b'{"limit": 9}', headers),
        (b"home", signed.value(), {SIGNATURE_HEADER: headers[SIGNATURE_HEADER]}),
        (b"home", signed.value(), headers | {FOLLOWS_HEADER: b"7"}),
        (b"home", None, headers),
        (b"\xff", signed.value(), headers),
    )
    for key, value, held in others:
        reader = PlacementReader(SIGNED)
        reader.take(
            make_message(PLACEMENTS, key=key, value=value, headers=[*held.items()], offset=5)
        )
        assert not reader.table.known
    reader = PlacementReader(SIGNED)
    reader.take(signed)
    assert reader.table.known.keys() == {"home"}


def test_a_copy_of_an_old_message_brings_nothing_back() -> None:
    reader = PlacementReader(SIGNED)
    first = written(b"home", b'{"limit": 3}', 0, SIGNED, follows=-1)
    copy = written(b"home", b'{"limit": 3}', 2, SIGNED, follows=-1)
    reader.take(first)
    reader.take(written(b"home", b'{"limit": 4}', 1, SIGNED, follows=0))
    reader.take(copy)
    assert reader.table.known["home"].placement.limit == 4
    reader.take(written(b"home", None, 3, SIGNED, follows=1))
    reader.take(written(b"home", b'{"limit": 4}', 4, SIGNED, follows=0))
    assert not reader.table.known


def test_of_two_who_change_one_placement_at_once_the_second_is_told() -> None:
    for settings in (OPEN, SIGNED):
        reader = PlacementReader(settings)
        for at, limit in enumerate((b'{"limit": 3}', b'{"limit": 4}')):
            headers = list(signature_headers(settings, PLACEMENTS, "home", limit, -1))
            reader.take(
                make_message(PLACEMENTS, key=b"home", value=limit, headers=headers, offset=at)
            )
        assert reader.table.known["home"].placement.limit == 3
        reader.check_written("home", 0)
        with pytest.raises(OvertakenError, match="by revision 0: look at it"):
            reader.check_written("home", 1)
        # Whoever writes next has seen both.
        assert dict(reader.make_headers("home", b"{}"))[FOLLOWS_HEADER] == b"1"


def test_who_has_no_key_is_told_where_all_is_signed() -> None:
    reader = PlacementReader(OPEN)
    reader.take(written(b"home", b"{}", 0, SIGNED))
    with pytest.raises(SettingsError, match=r"kafka\.signing_key: is not set"):
        reader.make_headers("home", b"{}")


@pytest.mark.parametrize("follows", [b"x", b"9" * 40, b"-", b"\xff"])
def test_what_follows_nothing_that_can_be_changes_nothing(follows: bytes) -> None:
    reader = PlacementReader(OPEN)
    headers = [(FOLLOWS_HEADER, follows)]
    reader.take(make_message(PLACEMENTS, key=b"home", value=b"{}", headers=headers, offset=1))
    assert not reader.table.known
