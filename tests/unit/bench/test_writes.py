"""The check of read-your-writes finds a row that is not what its person did."""

from __future__ import annotations

import random

from headwater_client import EVENT_TYPES

from bench.api.known_people import KnownPeople, category_of
from bench.api.writes import WritesFound, show
from features.rows import UserRow, apply_event, empty_user, observation
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.topics import Hash, hash64


def make_people() -> KnownPeople:
    people = KnownPeople.__new__(KnownPeople)
    people.schema = FeatureSchema(FeatureSettings())
    people.log = {"ann": []}
    people._draw = random.Random(1)
    return people


def test_a_row_that_lacks_an_event_or_has_one_twice_is_found() -> None:
    people = make_people()
    for _ in range(60):
        people.log["ann"].append(people._draw_event("ann"))
    events = people.log["ann"]
    assert {EVENT_TYPES.spec_of(event).name for event in events} >= {"click", "return", "hide"}

    def make_row(*left_out: int, twice: bool = False) -> UserRow:
        row = empty_user(people.schema)
        for offset, event in enumerate(events):
            if offset in left_out:
                continue
            category = hash64(category_of(event.item_id))
            apply_event(row, observation(event, Hash(2), offset, (category,)), people.schema)
        if twice:
            last = observation(events[0], Hash(2), 999)._replace(event=Hash(5))
            apply_event(row, last, people.schema)
        return row

    assert not people._compare(make_row(), events)
    assert not people._find_missing(make_row(), events)
    bought = next(n for n, e in enumerate(events) if EVENT_TYPES.spec_of(e).name == "click")
    assert "counters" in people._compare(make_row(bought), events)
    assert people._find_missing(make_row(bought), events) == "1 of 60 events are missing"
    assert people._compare(make_row(twice=True), events)


def test_what_is_wrong_is_in_the_figures() -> None:
    found = WritesFound(events=3)
    found.requests["paused"] += 4
    found.wrong["counters"] += 1
    found.unsettled.append("seen")
    assert (found.summarise()["wrong"], found.summarise()["wrong_rows"]) == (1, 1)
    assert "recomputation: 1" in str(show(found)[1])
