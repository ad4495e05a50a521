"""Ids that look wrong, clocks that are off, events that are there twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from headwater_client.admin import quality
from headwater_client.events import Click

from deploy.console import event_checks
from deploy.console.event_checks import SampledEvent, check_clocks, check_duplicates, check_ids
from features.settings import HOUR_MS

NOW_MS = 1_764_000_000_123


def make_sample(
    at: int = 0, sender: str = "", arrived_ms: int = NOW_MS, **said: Any
) -> SampledEvent:
    known = {"event_id": f"e{at}", "user_id": "ann", "item_id": "i1", "timestamp": NOW_MS - 5}
    event = Click(**known | said)  # type: ignore[arg-type]
    return SampledEvent("click", event, f"clicks/0@{at}", arrived_ms, sender)


def show(name: str) -> str:
    return name


def faults_of(name: str) -> list[str]:
    return [fault.name for fault in event_checks.find_faults(name)]


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("ann", []),
        ("12", []),
        ("-1", []),
        ("12.5", []),
        ("1.0.0", []),
        ("12e45678", []),
        ("5d41402abc4b2a76b9719d911017c592", []),
        ("Zoë", []),
        ("小明", []),
        ("12.0", ["float"]),
        ("1.23457E+12", ["scientific"]),
        ("1E+11", ["scientific"]),
        ("null", ["placeholder"]),
        ("NaN", ["placeholder"]),
        ("undefined", ["placeholder"]),
        ("[object Object]", ["placeholder", "template"]),
        ("{{ user.id }}", ["template"]),
        ("${userId}", ["template"]),
        (" ann", ["blanks"]),
        ("an\u200bn", ["blanks"]),
        ("an\x00n", ["blanks"]),
        ("None ", ["placeholder", "blanks"]),
        ("ann@shop.example", ["email"]),
        ("mailto:ann@shop.example", ["email"]),
        ("ann@shop", []),
        ("ZoÃ«", ["mojibake"]),
        ("Zo\ufffd", ["mojibake"]),
    ],
)
def test_an_id_that_looks_wrong_is_told_from_one_that_does_not(
    name: str, faults: list[str]
) -> None:
    assert faults_of(name) == faults


def test_findings_count_events_and_ids_and_hide_people() -> None:
    events = [
        *(make_sample(n, user_id="ann@shop.example") for n in range(3)),
        *(make_sample(n, user_id=f"{n}.0") for n in range(10)),
        *(make_sample(n, item_id="null") for n in range(4)),
        make_sample(1, user_id="nan"),
    ]
    findings, _ = check_ids(events, lambda _: "person-1")
    told = {(each.field, each.fault): each for each in findings}
    email = told["user_id", "email"]
    assert (email.events, email.ids) == (3, 1)
    assert email.examples == [
        quality.IdExample(value="person-1", shape="aaa@aaaa.aaaaaaa", events=3)
    ]
    floats = told["user_id", "float"]
    assert (floats.events, floats.ids, len(floats.examples)) == (10, 10, 5)
    assert told["item_id", "placeholder"].events == 4
    # What stands for nobody is nobody's.
    assert told["user_id", "placeholder"].examples[0].value == "nan"


def test_what_is_no_template_alone_is_hidden() -> None:
    names = ("${id}", "{{ user.id }}", "ann-${id}", "{{a}} ann {{b}}", "shop:ann[object Object]")
    findings, _ = check_ids(
        [make_sample(n, user_id=name) for n, name in enumerate(names)], lambda _: "person-1"
    )
    (found,) = [each for each in findings if each.fault == "template"]
    assert found.ids == len(names)
    shown = {each.value for each in found.examples}
    assert shown == {"${id}", "{{ user.id }}", "person-1"}


def test_one_person_in_several_spellings_is_found() -> None:
    same = ["Ann", "ann", " ann", "ANN"]
    numbers = ["42", "42.0", "0042"]
    events = [make_sample(n, user_id=name) for n, name in enumerate([*same, "bob", *numbers, "43"])]
    _, spellings = check_ids(events, show)
    assert [{each.value for each in found.ids} for found in spellings] == [
        set(same),
        set(numbers),
    ]
    assert [found.events for found in spellings] == [4, 3]
    assert {found.field for found in spellings} == {"user_id"}
    assert not check_ids([make_sample(0, user_id="null"), make_sample(1, user_id="NULL")], show)[1]


def make_shifted(shift_ms: int, number: int, noise_ms: int = 20_000) -> list[SampledEvent]:
    pick = random.Random(number)
    return [
        make_sample(n, "app", timestamp=NOW_MS - shift_ms - pick.randrange(noise_ms))
        for n in range(number)
    ]


@pytest.mark.parametrize("minutes", [60, -60, 120, 330, 345, -480])
def test_local_times_that_are_sent_for_utc_are_found(minutes: int) -> None:
    (group,) = check_clocks(make_shifted(minutes * 60_000, 40))
    assert (group.shift_minutes, group.shifted) == (minutes, 40)
    assert (group.type, group.sender) == ("click", "app")


def test_good_clocks_and_slow_queues_are_no_shift() -> None:
    for events in (
        make_shifted(0, 40),
        make_shifted(0, 200, noise_ms=6 * HOUR_MS),
        # Too few to say so.
        make_shifted(2 * HOUR_MS, 19),
        [*make_shifted(0, 30), *make_shifted(2 * HOUR_MS, 20)],
    ):
        assert {group.shift_minutes for group in check_clocks(events)} == {None}


def test_each_sender_has_a_clock_of_its_own() -> None:
    good = [make_sample(n, "web", timestamp=NOW_MS - 10) for n in range(100)]
    groups = check_clocks([*good, *make_shifted(HOUR_MS, 30)])
    assert [(group.sender, group.shift_minutes) for group in groups] == [("app", 60), ("web", None)]


def test_the_future_and_days_late_are_counted() -> None:
    events = [
        make_sample(0, timestamp=NOW_MS + 61_000),
        make_sample(1, timestamp=NOW_MS - 25 * HOUR_MS),
        *(make_sample(n) for n in range(2, 10)),
    ]
    (group,) = check_clocks(events)
    assert (group.ahead, group.late, group.events) == (1, 1, 10)
    assert group.median_delay_ms == 5


def test_dates_without_times_are_found() -> None:
    midnight = NOW_MS // 86_400_000 * 86_400_000
    (group,) = check_clocks([make_sample(n, timestamp=midnight) for n in range(30)])
    assert group.dates_only == 30
    assert "clocks.dates" in checks_of(answer_of(clocks=[group]))


def test_duplicates_are_told_apart() -> None:
    events = [
        make_sample(0, event_id="a"),
        make_sample(1, event_id="a"),
        make_sample(2, event_id="b"),
        make_sample(3, event_id="b", item_id="i2"),
        make_sample(4, user_id="bob", timestamp=NOW_MS - 2000),
        make_sample(5, user_id="bob", timestamp=NOW_MS - 1001),
        make_sample(6, user_id="cleo", timestamp=NOW_MS - 2000),
        make_sample(7, user_id="cleo", timestamp=NOW_MS - 1000),
    ]
    found = {each.kind: each for each in check_duplicates(events, show)}
    # b and a are of the same person and item, too, at once.
    assert {kind: each.events for kind, each in found.items()} == {
        "sent_again": 1,
        "id_reused": 1,
        "at_once": 2,
    }
    assert found["sent_again"].examples[0].places == ["clicks/0@0", "clicks/0@1"]
    assert found["id_reused"].examples[0].event_ids == ["b"]
    hidden = check_duplicates(events, lambda _: "person-1", tells_ids=False)
    assert {(one.person, *one.event_ids) for each in hidden for one in each.examples} == {
        ("person-1",)
    }
    assert not check_duplicates([make_sample(0), make_sample(1, user_id="bob")], show)


def answer_of(**said: Any) -> quality.QualityAnswer:
    sample = quality.EventSample(
        events=100, in_log=100, undecodable=0, partitions=1, oldest_time=1, newest_time=2
    )
    lists = ("alerts", "ids", "spellings", "clocks", "duplicates")
    known: dict[str, Any] = {name: [] for name in lists}
    return quality.QualityAnswer(**{**known, "sample": sample, "computed_time": 0, **said})


def checks_of(answer: quality.QualityAnswer) -> Sequence[str]:
    return [alert.check for alert in event_checks.list_alerts(answer)]


def test_each_finding_is_an_alert_with_a_link_and_what_is_lost_stands_first() -> None:
    events = [
        *(make_sample(n, user_id="12.0", item_id="null") for n in range(2)),
        make_sample(3, event_id="x"),
        make_sample(4, event_id="x", item_id="i9"),
        make_sample(5, user_id="12", timestamp=NOW_MS + 90_000),
    ]
    ids, spellings = check_ids(events, show)
    answer = answer_of(
        ids=ids,
        spellings=spellings,
        clocks=check_clocks(events),
        duplicates=check_duplicates(events, show),
    )
    alerts = list(event_checks.list_alerts(answer))
    assert {alert.check for alert in alerts} >= {
        "ids.item_id.placeholder",
        "ids.user_id.float",
        "ids.user_id.spellings",
        "clocks.ahead",
        "duplicates.id_reused",
    }
    assert all(alert.link.startswith("/quality#") and alert.remedy for alert in alerts)
    order = [list(quality.Severity).index(alert.severity) for alert in alerts]
    assert order == sorted(order)
    assert not checks_of(answer_of())
