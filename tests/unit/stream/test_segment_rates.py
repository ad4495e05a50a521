"""What is popular with some people: what their events add up to, as the stream counts them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from headwater_client import AddToCart, Click, Dislike, Purchase, Rating, Return
from headwater_client.events import Interaction

from features.rows import (
    ItemGroup,
    UserRow,
    apply_event,
    apply_item_event,
    empty_group,
    empty_user,
    find_item_event,
    observation,
    popularity,
)
from features.schema import BoolArray, FeatureSchema
from features.settings import FeatureSettings
from features.topics import source_hash
from stream.segment_rates import EventWindow

SCHEMA = FeatureSchema(FeatureSettings())
DAY_MS = 86_400_000
NOW_MS = 1_764_000_000_000


def event(
    kind: type[Interaction], person: str, item: str, at_ms: int = NOW_MS, **more: object
) -> Interaction:
    name = more.pop("event_id", f"{kind.__name__}/{person}/{item}/{at_ms}")
    return kind(event_id=name, user_id=person, item_id=item, timestamp=at_ms, **more)  # type: ignore[call-arg]


def members(window: EventWindow, *names: str) -> BoolArray:
    return np.array([name in names for name in window.people.names], np.bool_)


def rates(window: EventWindow, *people: str, since_ms: int = 0) -> dict[str, float]:
    found = window.sum_rates(members(window, *people), since_ms, NOW_MS).items
    factor = found.decay_factors([NOW_MS])[0, 0]
    return dict(zip(found.item_ids, (found.counts[:, 0] * factor).tolist(), strict=True))


def test_the_rates_of_everyone_are_those_that_the_items_rows_have() -> None:
    chance, window = random.Random(3), EventWindow(SCHEMA, 5000)
    rows: dict[str, UserRow] = {}
    groups: dict[tuple[str, int], ItemGroup] = {}
    kinds = (Click, Purchase, Rating, AddToCart, Dislike, Return)
    for number in range(1500):
        kind = chance.choice(kinds)
        person, item = f"p{chance.randrange(40)}", f"i{chance.randrange(15)}"
        more: dict[str, object] = {
            "event_id": f"e{number if chance.random() < 0.9 else number - 1}"
        }
        if kind is Rating:
            more["value"] = chance.uniform(0, 5)
        # No two at one time: which of them is taken back hangs on what has arrived by then.
        made = event(kind, person, item, NOW_MS - chance.randrange(20) * DAY_MS - number, **more)
        if kind is Return:
            made = event(kind, person, item, NOW_MS - number, **more)
        window.add(made, NOW_MS)
        observed = observation(made, source_hash(kind.__name__, 0), number)
        row = rows.setdefault(person, empty_user(SCHEMA))
        counted = find_item_event(row, observed, SCHEMA)
        if apply_event(row, observed, SCHEMA) and counted is not None:
            group = groups.setdefault((item, observed.type), empty_group(SCHEMA))
            apply_item_event(group, counted, SCHEMA)
    found = rates(window, *window.people.names)
    for item in {name for name, _ in groups}:
        own = [(code, group) for (name, code), group in groups.items() if name == item]
        expected = popularity(own, NOW_MS, SCHEMA)[SCHEMA.trending_index]
        assert found.get(item, 0.0) == pytest.approx(max(0.0, expected), abs=1e-6)


def test_only_those_count_who_are_in_it_and_what_is_not_too_old() -> None:
    window = EventWindow(SCHEMA, 100)
    half_life = SCHEMA.settings.trending_half_life_ms
    window.add(event(Click, "ann", "a"), NOW_MS)
    window.add(event(Click, "ann", "b", NOW_MS - half_life), NOW_MS)
    window.add(event(Click, "bob", "a"), NOW_MS)
    window.add(event(Click, "ann", "c"), NOW_MS - 1000)
    assert rates(window, "ann") == pytest.approx({"a": 1, "b": 0.5, "c": 1})
    assert rates(window, "ann", since_ms=NOW_MS) == pytest.approx({"a": 1, "b": 0.5})
    assert rates(window, "nobody") == {}
    assert window.sum_rates(members(window, "ann", "bob"), 0, NOW_MS).people == 2


def test_what_kafka_brings_twice_counts_once_and_the_oldest_go() -> None:
    window = EventWindow(SCHEMA, 3)
    for at in range(5):
        for _ in range(2):
            window.add(event(Click, "ann", f"i{at}"), NOW_MS + at)
    found = window.sum_rates(members(window, "ann"), 0, NOW_MS)
    assert sorted(found.items.item_ids) == ["i2", "i3", "i4"]
    # From then on nothing is missing.
    assert found.since_ms == NOW_MS + 2


def test_a_guest_becomes_a_member_and_who_is_forgotten_is_gone() -> None:
    window = EventWindow(SCHEMA, 100)
    window.add(event(Click, "guest", "a"), NOW_MS)
    window.merge("guest", "ann")
    assert window.add(event(Click, "guest", "b"), NOW_MS + 1) == "ann"
    assert rates(window, "ann") == pytest.approx({"a": 1, "b": 1})
    window.erase("ann", NOW_MS)
    assert rates(window, "ann") == pytest.approx({"b": 1})
    # One that is read later, and came before.
    assert window.add(event(Click, "ann", "c"), NOW_MS) is None
    window.add(event(Click, "ann", "c", event_id="new"), NOW_MS + 2)
    assert rates(window, "ann") == pytest.approx({"b": 1, "c": 1})


def test_one_person_is_no_trend_where_the_settings_say_so() -> None:
    limited = FeatureSchema(FeatureSettings(item_event_limit=2))
    window = EventWindow(limited, 100)
    for at in range(5):
        window.add(event(Click, "ann", "a", NOW_MS - at), NOW_MS)
    assert rates(window, "ann")["a"] == pytest.approx(2)


def test_names_that_have_no_event_left_are_forgotten() -> None:
    window = EventWindow(SCHEMA, 4)
    shrunk = []
    for at in range(30):
        window.add(event(Click, f"p{at}", f"i{at}"), NOW_MS + at)
        shrunk.append(window.shrink())
    assert any(shrunk)
    assert len(window.people) <= 8
    assert len(window.items) <= 8
    assert set(rates(window, *window.people.names)) == {"i26", "i27", "i28", "i29"}
