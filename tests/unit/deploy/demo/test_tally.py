"""What the demo prints follows from the log and the answers, not from when they came."""

from __future__ import annotations

from headwater_client.events import Click, Interaction, Reason, Recommendation, RecommendedItem
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from deploy.demo.tally import ENOUGH, DemoTally, FollowUp, find_follow_ups, give_advice
from features.schema import FeatureSchema
from features.settings import FeatureSettings

SCHEMA = FeatureSchema(FeatureSettings())
START_MS = 1_700_000_000_000


def click(number: int, person: str, item: str) -> Click:
    return Click(
        event_id=f"e{number}", user_id=person, item_id=item, timestamp=START_MS + 1000 * number
    )


def log_of(*events: str) -> list[Interaction]:
    """Events written as person and item: `ann:a`."""
    return [click(number, *each.split(":")) for number, each in enumerate(events)]


def answer(event: Interaction, items: list[str], version: str = "1") -> Recommendation:
    return Recommendation(
        recommendation_id=f"r-{event.event_id}",
        user_id=event.user_id,
        event_id=event.event_id,
        items=[RecommendedItem(item, 1.0, Reason("popular")) for item in items],
        model_version=version,
        variant="stable",
        event_time=event.timestamp,
        produced_time=event.timestamp + 5,
        fallback=False,
    )


def test_an_answer_is_held_against_the_next_item_that_is_new() -> None:
    events = log_of("ann:a", "ann:a", "bob:b", "ann:b", "ann:c")
    after = find_follow_ups(events[:1], events[1:4], events[4:], SCHEMA)
    assert after["e1"] == FollowUp("b", popular=True, next_item="b", own=False)
    assert after["e2"] == FollowUp(None, popular=False, next_item=None, own=False)
    assert after["e3"] == FollowUp("c", popular=True, next_item="c", own=False)


def test_an_item_that_a_person_has_is_passed_over() -> None:
    events = log_of("ann:a", "ann:b", "ann:a", "ann:c")
    after = find_follow_ups([], events, [], SCHEMA)
    assert [after[f"e{number}"].new_item for number in range(4)] == ["b", "c", "c", None]
    assert [after[f"e{number}"].next_item for number in range(4)] == ["b", "a", "c", None]
    assert [after[f"e{number}"].own for number in range(4)] == [False, True, False, False]


def test_what_happened_at_the_same_time_is_no_return() -> None:
    """A rating of five is a click and a purchase of the same item."""
    first, *rest = log_of("ann:a", "bob:x", "ann:b")
    events = [first, replace(click(9, "ann", "a"), timestamp=first.timestamp), *rest]
    after = find_follow_ups([], events, [], SCHEMA)
    assert after["e0"] == after["e9"] == FollowUp("b", popular=True, next_item="b", own=False)


def test_where_nothing_marks_an_item_as_seen_every_item_is_new() -> None:
    events = log_of("ann:a", "ann:a", "ann:b")
    open_schema = FeatureSchema(FeatureSettings(seen_by=frozenset()))
    after = find_follow_ups([], events, [], open_schema)
    assert [after[event.event_id].new_item for event in events] == ["a", "b", None]


def test_popularity_is_asked_as_of_the_event() -> None:
    crowd = [f"p{number}:{number % 10}" for number in range(30)]
    events = log_of("ann:x", *crowd, "ann:late", "bob:late", "eve:late")
    after = find_follow_ups([], events, [], SCHEMA)
    assert after["e0"].new_item == "late"
    later = log_of(*crowd, "ann:x", "bob:late", "eve:late", "ann:late")
    at = next(event.event_id for event in later if event.item_id == "x")
    assert not find_follow_ups([], later, [], SCHEMA)[at].popular


people = st.sampled_from(["ann", "bob", "eve"])
items = st.sampled_from("abcdef")
shown = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=10)


@given(st.lists(st.tuples(people, items, st.booleans(), shown), min_size=1, max_size=30), st.data())
def test_the_tally_is_the_same_whatever_the_order_and_timing(
    steps: list[tuple[str, str, bool, list[str]]], data: st.DataObject
) -> None:
    events = [click(number, person, item) for number, (person, item, _, _) in enumerate(steps)]
    answers = [
        answer(event, names, version=str(number % 2))
        for number, (event, (_, _, answered, names)) in enumerate(zip(events, steps, strict=True))
        if answered
    ]
    after = find_follow_ups([], events, [], SCHEMA)
    together = data.draw(st.permutations([*answers, *answers[:3]]))
    assert tally_figures(events, answers, after, early=True) == tally_figures(
        events, together, after, early=False
    )


def tally_figures(
    events: list[Interaction],
    answers: list[Recommendation],
    after: dict[str, FollowUp],
    *,
    early: bool,
) -> tuple[object, ...]:
    """The figures; `early`: each answer is there before the next event is sent."""
    tally = DemoTally(follow_ups=after, watched="ann")
    by_event = {each.event_id: each for each in answers}
    for event in events:
        tally.note_sent(event)
        if early and event.event_id in by_event:
            tally.note_received(by_event[event.event_id])
    for each in [] if early else answers:
        tally.note_received(each)
    return (
        (tally.asked, tally.hits, tally.popular_hits, tally.answered_fraction),
        tally.repeats,
        dict(sorted(tally.versions.items())),
        tally.recommendations,
    )


def figures(asked: int, ours: float, popular: float, own_hits: int = 0) -> dict[str, object]:
    rates = {"asked": asked, "recommended": ours, "popularity": popular}
    repeats = {"asked": asked, "hits": round(asked * ours), "own_hits": own_hits}
    return {"hit_rate_at_10": rates, "next_event": repeats}


def test_advice_is_given_where_a_simple_rule_is_as_good() -> None:
    assert list(give_advice(figures(ENOUGH, 0.2, 0.1))) == []
    assert "too few to tell" in "".join(give_advice(figures(3, 0.0, 0.0)))
    assert "no better than decayed popularity (0.1 beside 0.1)" in "".join(
        give_advice(figures(ENOUGH, 0.1, 0.1))
    )
    (line,) = give_advice(figures(ENOUGH, 0.2, 0.1, own_hits=100))
    assert "HEADWATER_FEATURES__SEEN_BY='[]'" in line
