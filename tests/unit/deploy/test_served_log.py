"""Lists of the log: which people they are of, and what they have earned."""

from __future__ import annotations

import pytest
from headwater_client import Click, Impression, Purchase
from headwater_client.events import Interaction, Reason, Recommendation, RecommendedItem
from msgspec.structs import replace

from deploy.jobs.served_log import LoggedEvent, SampledPeople, ServedList, ServedLog, credit_events
from deploy.rollout import RolloutSettings
from deploy.rollout.feedback.attribution import MAX_COUNTED

RULES = RolloutSettings(credit_window_s=100, purchase_reward=5)
START_MS = 1_700_000_000_000


def served(name: str, person: str = "ann", at_s: float = 0.0, items: str = "abc") -> ServedList:
    told = Recommendation(
        recommendation_id=name,
        user_id=person,
        event_id="",
        items=[RecommendedItem(item, 1.0, Reason("trending")) for item in items],
        model_version="1",
        variant="stable",
        event_time=START_MS,
        produced_time=START_MS,
        fallback=False,
        placement="cart",
    )
    return ServedList(told, START_MS + int(1000 * at_s))


def event(
    kind: type[Interaction], item: str, at_s: float, name: str = "", **more: str
) -> LoggedEvent:
    time_ms = START_MS + int(1000 * at_s)
    fields = {"event_id": f"{item}{at_s}", "user_id": "ann", "item_id": item, "timestamp": time_ms}
    made = kind(**fields, recommendation_id=name or None)
    return LoggedEvent(made, "any", 0, 0, time_ms)


def list_rewards(lists: list[ServedList], *events: LoggedEvent) -> list[list[float]]:
    credit_events(ServedLog(lists, {"ann": list(events)}, len(lists)), RULES)
    return [each.rewards.round(3).tolist() for each in lists]


def test_an_event_earns_the_newest_list_that_held_its_item_once_for_each_type() -> None:
    lists = [served("old"), served("new", at_s=10, items="bcd"), served("later", at_s=50)]
    events = [
        event(Click, "c", 20),
        event(Click, "c", 21),
        event(Purchase, "c", 22),
        event(Click, "a", 23),
        event(Click, "z", 24),
    ]
    assert list_rewards(lists, *events) == [[1, 0, 0], [0, round(6 * 0.631, 3), 0], [0, 0, 0]]


def test_an_event_that_names_its_list_earns_that_and_one_of_another_place_nothing() -> None:
    lists = [served("old"), served("new", at_s=10)]
    events = [event(Click, "a", 20, "old"), event(Click, "b", 21, "of another place")]
    assert list_rewards(lists, *events) == [[1, 0, 0], [0, 0, 0]]


def test_what_comes_after_the_window_or_before_the_list_earns_nothing() -> None:
    lists = [served("one", at_s=10)]
    assert list_rewards(lists, event(Click, "a", 5), event(Click, "a", 111)) == [[0, 0, 0]]


def test_where_impressions_are_sent_only_what_was_seen_counts() -> None:
    lists = [served(f"l{number}", at_s=number) for number in range(120)]
    seen = [
        LoggedEvent(
            Impression(
                event_id=f"s{number}",
                user_id="ann",
                timestamp=START_MS,
                recommendation_id=f"l{number}",
                position=number % 2,
            ),
            "impressions",
            0,
            0,
            START_MS + 1000 * number + 1,
        )
        for number in range(110)
    ]
    # Of one person so many lists count in each stretch of the window.
    rules = RolloutSettings(credit_window_s=1)
    few, enough = (ServedLog(list(lists), {"ann": some}, 120) for some in (seen[:50], seen))
    for log in (few, enough):
        for each in lists:
            each.seen = None
        credit_events(log, rules)
        assert log.keep_seen() is (log is enough)
    assert [each.seen_to for each in enough.lists] == [number % 2 for number in range(110)]


def test_what_was_not_seen_earns_nothing_where_impressions_are_sent() -> None:
    lists = [served(f"l{number}", person=f"p{number}") for number in range(200)]
    events: dict[str, list[LoggedEvent]] = {}
    for number in range(200):
        name, person = f"l{number}", f"p{number}"
        shown = Impression(
            event_id="s", user_id=person, timestamp=START_MS, recommendation_id=name, position=1
        )
        events[person] = [
            LoggedEvent(shown, "impressions", 0, 0, START_MS + 1),
            *(
                each._replace(event=replace(each.event, user_id=person))
                for each in (event(Click, "b", 2), event(Click, "c", 3))
            ),
        ]
    log = ServedLog(lists, events, 200)
    credit_events(log, RULES)
    assert {tuple(each.rewards.round(3)) for each in lists} == {(0, 0.631, 0.5)}
    assert log.keep_seen()
    assert {tuple(each.rewards.round(3)) for each in log.lists} == {(0, 0.631, 0)}


def test_a_machine_earns_no_more_than_a_rollout_lets_it() -> None:
    lists = [served(f"l{number}", at_s=number / 10) for number in range(120)]
    clicks = [event(Click, "a", number / 10 + 0.01, f"l{number}") for number in range(120)]
    counted = sum(each[0] for each in list_rewards(lists, *clicks))
    assert counted == MAX_COUNTED


@pytest.mark.parametrize("most", [1, 30, 1000])
def test_the_same_people_are_kept_whole_whatever_the_order(most: int) -> None:
    lists = [
        served(f"{p}-{n}", person=f"p{p}", at_s=n) for p in range(40) for n in range(1 + p % 5)
    ]
    kept = []
    for some in (lists, list(reversed(lists))):
        people = SampledPeople(most)
        for each in some:
            people.add(each)
        kept.append({each.told.recommendation_id for each in people.lists})
    assert kept[0] == kept[1]
    assert len(kept[0]) <= max(most, 5)
    persons = {name.partition("-")[0] for name in kept[0]}
    assert kept[0] == {
        n for each in lists if (n := each.told.recommendation_id).partition("-")[0] in persons
    }
    assert len(persons) == 40 or most < len(lists)
