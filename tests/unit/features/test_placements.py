"""Which placement counts, whatever stands on the topic."""

from __future__ import annotations

from typing import Any

import pytest
from headwater_client import EventError, encode
from headwater_client.contract import Fallback, PlacementRules

from features.placement_topic import take_message
from features.placements import PlacementTable, check_placement
from features.rules.errors import RuleError


class Written:
    """A message as the consumer brings it."""

    def __init__(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        self._all = key, value, offset

    def error(self) -> None:
        return None

    def key(self) -> bytes | None:
        return self._all[0]

    def value(self) -> bytes | None:
        return self._all[1]

    def offset(self) -> int:
        return self._all[2]


def read(*messages: tuple[bytes | None, bytes | None]) -> PlacementTable:
    table = PlacementTable()
    for offset, (key, value) in enumerate(messages):
        message: Any = Written(key, value, offset)
        take_message(table, message)
    return table


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
