"""The HTTP API on the real servers, beside a worker: it answers, whatever the worker has seen."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec
import pytest
from gorse import AsyncGorse, Gorse, GorseException
from headwater_client import EVENT_TYPES, Item, decode, encode
from headwater_client.events import ListRequest, Recommendation
from headwater_client.http import raw_event
from headwater_client.topics import RECOMMENDATIONS, SERVED

from bench.api.known_people import KnownPeople
from bench.harness.processes import folder_variables
from deploy.jobs.train import model_registry
from deploy.rollout.feedback.consumer import FeedbackConsumer
from deploy.rollout.feedback.counters import VariantCounters
from deploy.rollout.feedback.ledger import FeedbackScope
from deploy.settings import Settings
from features.events import current_ms
from features.inputs import MODEL_NAME
from features.kafka import ensure_sources
from features.rollout_messages import Rollout, RolloutPhase, RoutedVersion
from features.rollouts import write_rollout_message
from features.schema import FILE_NAME, FeatureSchema, Vocabulary, read_vocabulary
from features.store.redis import RedisRowStore
from features.together import read_together
from stream.catalogue import CatalogueCache
from stream.ranking import PARTS
from stream.routing import Routes
from tests.harness.api_service import Service, category_of, pid_of, serving_api
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.servers import pause
from tests.harness.topic_reader import TopicReader
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, WorkerProgress, environment, running

pytestmark = pytest.mark.integration
ASK, EVENTS = "/v1/recommendations", "/v1/events"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving_api(tmp_path_factory.mktemp("api")) as service:
        yield service


def items(document: Any) -> list[str]:
    return [item["item_id"] for item in document["items"]]


def click(item_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "click", "item_id": item_id, **fields}


def test_a_person_is_answered_by_the_live_version(service: Service) -> None:
    person = uuid4().hex
    found = service.take("POST", ASK, {"person": person, "limit": 4})
    assert (found["model_version"], found["variant"], found["fallback"]) == ("1", "stable", False)
    assert len(set(items(found))) == 4
    assert "event_age_ms" not in found
    everything = service.take("POST", ASK, {"person": person})
    assert items(everything)[:4] == items(found)
    rest = service.take("POST", ASK, {"person": person, "exclude": items(found), "limit": 6})
    assert items(rest) == items(everything)[4:]
    guest = service.take("POST", ASK, {"events": [click("i1"), click("i2")]})
    assert not {"i1", "i2"} & set(items(guest))
    assert "person" not in guest


def test_an_answer_knows_the_events_of_its_request_and_each_counts_once(service: Service) -> None:
    person = uuid4().hex
    first = service.take("POST", ASK, {"person": person})
    best = items(first)[0]
    events = [click(best, event_id=f"{person}-1")]
    assert service.worker.process
    with pause(service.worker.process.pid):
        seen = service.take("POST", ASK, {"person": person, "events": events, "record": True})
        assert seen["recorded"]
        assert best not in items(seen)
        assert 0 <= seen["event_age_ms"] < 60_000
        assert service.clicks(person) == 0
        again = service.take("POST", ASK, {"person": person, "events": events})
        assert items(again) == items(seen)
    wait_until(lambda: service.clicks(person) == 1, 30)
    # Whoever sends it again, and whatever the worker has seen by now.
    later = service.take("POST", ASK, {"person": person, "events": events, "record": True})
    assert items(later) == items(seen)
    service.take("POST", EVENTS, click(best, user_id=person, event_id=f"{person}-1"))
    service.take("POST", EVENTS, click("i3", user_id=person))
    wait_until(lambda: service.clicks(person) > 1, 30)
    assert service.clicks(person) == 2
    found = service.take("GET", f"/v1/people/{person}")
    assert [event["item_id"] for event in found["events"]] == [best, "i3"]
    assert sum(offset + 1 for offset in found["offsets"].values()) >= 3


def test_an_answer_waits_for_an_offset_that_the_worker_has_yet_to_reach(service: Service) -> None:
    person = uuid4().hex
    for _ in range(3):
        (sent,) = service.take("POST", EVENTS, click("i1", user_id=person))["events"]
        found = service.take("POST", ASK, {"person": person, "min_offset": sent["place"]})
        ((name, offset),) = sent["place"].items()
        assert found["offsets"][name] >= offset
    assert service.clicks(person) == 3
    # What never comes is waited for no longer than the deadline.
    late = service.take("POST", ASK, {"person": person, "min_offset": {name: offset + 1000}})
    assert late["offsets"][name] < offset + 1000
    status, problem = service.call("POST", ASK, {"person": person, "min_offset": {"clicks/77": 1}})
    assert (status, problem["field"], problem["value"]) == (400, "min_offset", "'clicks/77'")
    assert name in problem["remedy"]


def test_each_refused_event_is_named_and_the_others_are_taken(service: Service) -> None:
    person = uuid4().hex
    sent = [
        click("i1", user_id=person),
        click("i2", user_id=person, timestamp=1_700_000_000),
        {"type": "purchase", "user_id": person, "item_id": "i3", "price": 3.5},
        {"type": "look", "user_id": person, "item_id": "i4"},
    ]
    found = service.take("POST", EVENTS, sent)
    assert (found["accepted"], found["refused"]) == (2, 2)
    assert [event["accepted"] for event in found["events"]] == [True, False, True, False]
    assert found["events"][1]["problem"]["field"] == "events[1].timestamp"
    assert found["events"][3]["problem"]["remedy"] == f"expected one of {', '.join(EVENT_TYPES)}"
    wait_until(lambda: service.clicks(person) == 1, 30)


def test_a_list_of_the_callers_own_comes_back_in_order(service: Service) -> None:
    asked = ["i5", "nowhere", "i6", "i7", "i5"]
    found = service.take("POST", "/v1/rank", {"person": "ann", "items": asked})
    assert sorted(items(found)[:3]) == ["i5", "i6", "i7"]
    assert items(found)[3] == "nowhere"
    scores = [item["score"] for item in found["items"][:3]]
    assert scores == sorted(scores, reverse=True)
    assert "score" not in found["items"][3]
    assert (found["model_version"], found["fallback"]) == ("1", False)
    again = service.take("POST", "/v1/rank", {"person": "ann", "items": asked[::-1]})
    assert items(again) == items(found)


def test_the_catalogue_is_written_and_read(service: Service) -> None:
    best = items(service.take("POST", ASK, {"person": "cleo"}))[0]
    gone = {"item_id": best, "available": False, "category": [category_of(best)]}
    assert service.take("PUT", "/v1/items", {"items": [gone]}) == {"accepted": 1}
    wait_until(lambda: best not in items(service.take("POST", ASK, {"person": "cleo"})), 30)
    alike = service.take("POST", "/v1/items/similar", {"items": ["i8", "i9"], "limit": 5})
    assert len(alike["items"]) == 5
    assert not {"i8", "i9", best} & set(items(alike))
    status, problem = service.call("PUT", "/v1/items", {"items": [{"item_id": "a", "price": -1}]})
    assert (status, problem["field"]) == (400, "items[0].price")


def test_an_item_is_put_told_and_taken_out(service: Service) -> None:
    name = f"a/b {uuid4().hex}"
    path = f"/v1/items/{quote(name)}"
    status, problem = service.call("GET", path)
    assert (status, problem["type"]) == (404, "/docs#not-found")
    item = {"item_id": name, "title": "Lamp", "price": 2.5, "attributes": {"shade": "red"}}
    service.take("PUT", "/v1/items", {"items": [item]})
    wait_until(lambda: service.call("GET", path)[0] == 200, 30)
    told = service.take("GET", path)
    assert {field: told[field] for field in item} == item
    assert service.call("DELETE", path, secret=service.ask_secret)[0] == 403
    removed = service.take("DELETE", path)
    assert (removed["item_id"], {each.partition("/")[0] for each in removed["place"]}) == (
        name,
        {"items"},
    )
    wait_until(lambda: service.call("GET", path)[0] == 404, 30)
    assert not service.is_on_sale(name)
    status, problem = service.call("DELETE", f"/v1/items/{'x' * 257}")
    assert (status, problem["field"]) == (400, "item_id")


def wait_until_priced(service: Service, item_id: str, price: float) -> None:
    """The catalogue's columns have an item with this price."""
    item = {
        "item_id": item_id,
        "title": "Lamp",
        "price": price,
        "category": [category_of(item_id)],
        "attributes": {"shade": "red"},
    }
    service.take("PUT", "/v1/items", {"items": [item]})
    exact = f"item.id == '{item_id}' && item.price == {price}"

    def is_there() -> bool:
        return items(service.take("POST", ASK, {"filter": exact})) == [item_id]

    wait_until(is_there, 30)


def test_a_list_is_full_of_what_a_filter_leaves(service: Service) -> None:
    person = uuid4().hex
    for text, left in (
        ("item.id in ['i3', 'i50', 'i77']", {"i3", "i50", "i77"}),
        ("item.title.startsWith('Item i19')", {"i19", *(f"i{n}" for n in range(190, 200))}),
        ("'c2' in item.category", {f"i{n}" for n in range(2, ITEMS, 5)}),
        ("!('c0' in item.category)", {f"i{n}" for n in range(ITEMS) if n % 5}),
        ("item.id.startsWith('nothing')", set()),
    ):
        for asked in ({"person": person}, {"events": [click("i4")]}):
            found = service.take("POST", ASK, {**asked, "filter": text, "limit": 50})
            gone = {each for each in left if not service.is_on_sale(each)}
            shown = left - gone - ({"i4"} if "events" in asked else set())
            assert len(items(found)) == min(50, len(shown)), text
            assert set(items(found)) <= shown
            assert found.get("missing", 0) == 50 - len(items(found))


def test_a_filter_knows_what_the_catalogue_says_now_and_what_the_request_brings(
    service: Service,
) -> None:
    wait_until_priced(service, "i60", 25.0)
    wait_until_priced(service, "i61", 75.0)
    text = "has(item.price) && item.price <= context.budget"
    for budget, expected in ((30, {"i60"}), (80.5, {"i60", "i61"}), (1, set())):
        query = {"filter": text, "context": {"budget": budget}}
        assert set(items(service.take("POST", ASK, query))) == expected
        similar = service.take("POST", "/v1/items/similar", {"items": ["i8"], **query})
        assert set(items(similar)) == expected
        ranked = service.take("POST", "/v1/rank", {"items": ["i61", "no", "i60", "i1"], **query})
        assert set(items(ranked)) == expected
    wait_until_priced(service, "i60", 90.0)
    query = {"filter": text, "context": {"budget": 80}}
    assert items(service.take("POST", ASK, query)) == ["i61"]


def test_a_list_is_chosen_among_the_callers_candidates(service: Service) -> None:
    person, few = uuid4().hex, [f"i{number}" for number in range(30, 60)]
    query = {"person": person, "candidates": [*few, "nowhere"], "limit": 50}
    left = {each for each in few if service.is_on_sale(each)}
    found = service.take("POST", ASK, query)
    assert (set(items(found)), found["fallback"]) == (left, False)
    assert found["missing"] == 50 - len(left)
    ranked = {"person": person, "items": few}

    def is_in_the_same_order() -> bool:
        """What trends may change between two requests."""
        best = items(service.take("POST", "/v1/rank", ranked))
        return items(service.take("POST", ASK, query)) == [each for each in best if each in left]

    wait_until(is_in_the_same_order, 10)
    # Many of a catalogue, too: there the version is asked for its best first.
    many = {f"i{number}" for number in range(150)}
    wide = service.take("POST", ASK, {**query, "candidates": [*many], "limit": 100})
    assert len(items(wide)) == 100
    assert set(items(wide)) <= many
    # What else narrows a list does so among them, and no rule brings in another.
    place = place_with(service, pins=[{"item_id": "i1", "place": 1}], limit=4)
    asked = {**query, "limit": None, "filter": "'c1' in item.category", "placement": place}
    both = service.take("POST", ASK, {name: each for name, each in asked.items() if each})
    assert len(items(both)) == 4
    assert {category_of(name) for name in items(both)} == {"c1"}
    assert set(items(both)) <= left
    first = service.take("POST", ASK, {**query, "limit": 5})
    then = service.take("POST", ASK, {**query, "limit": 5, "cursor": first["cursor"]})
    assert len({*items(first), *items(then)} & left) == 10
    for wrong, field in (
        ({"cursor": first["cursor"], "candidates": few[:9]}, "cursor"),
        ({"candidates": []}, "candidates"),
    ):
        status, problem = service.call("POST", ASK, {**query, **wrong})
        assert (status, problem["field"]) == (400, field)


def test_a_filter_with_a_fault_is_refused_at_its_column(service: Service) -> None:
    wait_until_priced(service, "i60", 25.0)
    for text, context, column, remedy in (
        ("item.price <", {}, 13, "it ends too early"),
        ("item.cost < 5", {}, 1, "there is no item.cost: there are item.id, item.title"),
        ("true && item.attributes.shape == 'x'", {}, 9, "no item has an attribute 'shape'"),
        ("item.price < context.budget", {"top": 1}, 14, "the request has no context.budget"),
        ("item.brand in context.brands", {"brands": 1}, 15, "expected a list"),
    ):
        for path, more in ((ASK, {}), ("/v1/items/similar", {"items": ["i1"]})):
            query = {"filter": text, "context": context, **more}
            status, problem = service.call("POST", path, query)
            assert (status, problem["field"]) == (400, "filter")
            assert problem["column"] == column, problem
            assert remedy in problem["remedy"]
            assert problem.get("value", "") == text[column - 1 :][:40]
    status, problem = service.call("GET", "/v1/popular?filter=item.price")
    assert (status, problem["column"]) == (400, 1)


def test_who_was_a_guest_is_answered_by_what_both_did(service: Service) -> None:
    guest, person = uuid4().hex, uuid4().hex
    service.take("POST", EVENTS, click("i1", user_id=person))
    wait_until(lambda: service.clicks(person) == 1, 30)
    best, *_ = items(service.take("POST", ASK, {"person": person}))
    service.take("POST", EVENTS, click(best, user_id=guest))
    wait_until(lambda: service.clicks(guest) == 1, 30)
    assert best in items(service.take("POST", ASK, {"person": person}))
    both = items(service.take("POST", ASK, {"person": person, "guest": guest}))
    assert not {"i1", best} & set(both)
    for body in ({"guest": guest}, {"person": guest, "guest": guest}):
        status, problem = service.call("POST", ASK, body)
        assert (status, problem["field"]) == (400, "guest" if "person" in body else "person")


def test_what_is_known_of_a_person_is_kept_and_shown(service: Service) -> None:
    person, path = uuid4().hex, "/v1/people/{}/attributes"
    first = {"city": "Ghent", "age": 31, "member": True, "score": 0.5, "note": None}
    sent = service.take("PUT", path.format(person), {"attributes": first})
    ((place, offset),) = sent["place"].items()
    assert (place.partition("/")[0], offset >= 0) == ("people", True)

    def known() -> Any:
        status, found = service.call("GET", f"/v1/people/{person}")
        assert status in (200, 404)
        return found.get("attributes", {}) if status == 200 else None

    wait_until(lambda: known() == first, 30)
    service.take("PUT", path.format(person), {"attributes": {"city": "Bruges"}})
    service.take("POST", EVENTS, click("i1", user_id=person))
    wait_until(lambda: known() == {"city": "Bruges"} and service.clicks(person) == 1, 30)
    service.worker.end()
    service.worker.start()
    assert known() == {"city": "Bruges"}
    for body, field in (
        ({"attributes": {"city": ["a"]}}, "attributes[...]"),
        ({"attributes": {f"a{n}": n for n in range(65)}}, "attributes"),
        ({}, "attributes"),
        ({"attributes": {}, "city": "x"}, "city"),
    ):
        status, problem = service.call("PUT", path.format(person), body)
        assert (status, problem["field"]) == (400, field)
    status, problem = service.call("PUT", path.format("x" * 257), {"attributes": {}})
    assert (status, problem["field"]) == (400, "user_id")


def test_a_placement_changes_lists_without_a_restart(service: Service) -> None:
    wait_until_priced(service, "i60", 25.0)
    place = f"p{uuid4().hex[:8]}"
    path = f"/v1/placements/{place}"
    status, problem = service.call("POST", ASK, {"placement": place})
    assert (status, problem["field"], problem["value"]) == (400, "placement", repr(place))
    first = service.take("PUT", path, {"filter": "'c1' in item.category", "limit": 4})
    for route, query in ((ASK, {}), ("/v1/items/similar", {"items": ["i1"]})):
        found = service.take("POST", route, {"placement": place, **query})
        assert len(items(found)) == 4
        assert {category_of(name) for name in items(found)} == {"c1"}
        assert (found["placement"], found["placement_revision"]) == (place, first["revision"])
    both = {"placement": place, "filter": "item.id.endsWith('6')", "limit": 30}
    assert {name[-1] for name in items(service.take("POST", ASK, both))} == {"6"}
    # Written by a command, it counts as soon as the service has read it.
    put = ("placements", "put", place, "--filter", "item.price <= context.budget", "--limit", "2")
    assert try_command(service, *put).returncode == 0
    asked = {"placement": place, "context": {"budget": 30}}
    wait_until(lambda: items(service.take("POST", ASK, asked)) == ["i60"], 30)
    status, problem = service.call("POST", ASK, {"placement": place})
    assert (status, problem["field"], problem["column"]) == (400, "placement", 15)
    assert "the request has no context.budget" in problem["remedy"]
    listed = service.take("GET", "/v1/placements")["placements"]
    (mine,) = (each for each in listed if each["name"] == place)
    assert mine["revision"] > first["revision"]
    assert service.take("GET", path) == mine
    assert service.call("GET", f"{path}-none")[0] == 404
    for name, rules, field in (
        (place, {"filter": "item.price <"}, "filter"),
        (place, {"filter": "item.attributes.nothing == 1"}, "filter"),
        (place, {"limit": 0}, "limit"),
        ("Not a name", {}, "name"),
    ):
        status, problem = service.call("PUT", f"/v1/placements/{name.replace(' ', '%20')}", rules)
        assert (status, problem["field"]) == (400, field), problem
    path = service.log.with_name("rules.json")
    path.write_text('{"pins": [{"item_id": "i60", "place": 1}], "limit": 3}')
    put = ("placements", "put", place, "--rules", str(path), "--limit", "2")
    assert try_command(service, *put).returncode == 0
    assert '"pins":[{"item_id":"i60"' in try_command(service, "placements", "show", place).stdout
    assert "limit 2" in try_command(service, "placements", "show", place).stdout
    path.write_text('{"boosts": [{"filter": "item.cost < 1", "factor": 2}]}')
    refused = try_command(service, *put)
    assert "boosts[0].filter: column 1: there is no item.cost" in refused.stderr
    refused = try_command(service, "placements", "put", place, "--filter", "item.cost < 1")
    assert refused.returncode != 0
    assert "column 1: there is no item.cost" in refused.stderr
    assert try_command(service, "placements", "remove", place).returncode == 0
    wait_until(lambda: service.call("POST", ASK, asked)[0] == 400, 30)
    assert "there are" in try_command(service, "placements", "show", place).stderr


def test_a_placement_gets_its_objective_by_an_option(service: Service) -> None:
    place = f"p{uuid4().hex[:8]}"
    path = f"/v1/placements/{place}"
    put = ("placements", "put", place, "--limit", "2", "--objective")
    assert try_command(service, *put, "revenue").returncode == 0
    wait_until(lambda: service.call("GET", path)[0] == 200, 30)
    assert service.take("GET", path)["placement"] == {"limit": 2, "objective": "revenue"}
    shown = try_command(service, "placements", "show", place).stdout
    assert '"objective":"revenue"' in shown
    refused = try_command(service, *put, "fame")
    assert refused.returncode == 2
    assert "'fame'" in refused.stderr
    assert "'purchases'" in refused.stderr
    assert try_command(service, "placements", "remove", place).returncode == 0


def test_pages_repeat_nothing_whatever_happens_in_between(service: Service) -> None:
    wait_until_priced(service, "i60", 25.0)
    person, everyone = uuid4().hex, {f"i{number}" for number in range(ITEMS)}
    query = {"person": person, "filter": "item.id.startsWith('i')", "limit": 17}
    cursor, seen, pages = None, list[str](), 0
    while cursor != "":
        page = service.take("POST", ASK, {**query, "cursor": cursor} if cursor else query)
        cursor, pages = page.get("cursor", ""), pages + 1
        seen += items(page)
        # What the worker counts changes the row, and what trends with it.
        for name in items(page)[:2]:
            service.take("POST", EVENTS, click(name, user_id=person))
        if pages == 3:
            wait_until(lambda: service.clicks(person) >= 6, 30)
        if cursor:
            again = service.take("POST", ASK, {**query, "cursor": cursor, "limit": 5})
            assert not set(items(again)) & set(seen)
    assert len(set(seen)) == len(seen)
    assert {each for each in everyone if service.is_on_sale(each)} <= set(seen)
    first = service.take("POST", ASK, query)["cursor"]
    for other in (
        {**query, "person": "somebody", "cursor": first},
        {"person": person, "cursor": first},
        {**query, "cursor": first[:-6]},
        {**query, "cursor": "nonsense"},
    ):
        status, problem = service.call("POST", ASK, other)
        assert (status, problem["field"]) == (400, "cursor")
        assert "ask without one for the first page" in problem["remedy"]


def test_what_a_person_was_shown_is_left_out(service: Service) -> None:
    person, guest = uuid4().hex, uuid4().hex
    first = service.take("POST", ASK, {"person": person, "limit": 6})
    assert "shown" not in first
    assert items(service.take("POST", ASK, {"person": person, "limit": 6})) == items(first)
    second = service.take("POST", ASK, {"person": person, "limit": 6, "exclude_shown": True})
    assert not set(items(first)) & set(items(second))
    assert (len(items(second)), second["shown"]) == (6, 6)
    third = service.take("POST", ASK, {"person": person, "exclude_shown": True})
    assert third["shown"] == 12
    assert not {*items(first), *items(second)} & set(items(third))
    # Nothing of it is a thing that they did.
    assert service.call("GET", f"/v1/people/{person}")[0] == 404
    service.take("POST", ASK, {"person": guest, "limit": 30})
    both = {"person": person, "guest": guest, "exclude_shown": True, "limit": 1}
    assert service.take("POST", ASK, both)["shown"] >= 30
    status, problem = service.call("POST", ASK, {"exclude_shown": True})
    assert (status, problem["field"]) == (400, "person")
    with pause(pid_of(service, "store")):
        away = service.take("POST", ASK, {"person": person, "exclude_shown": True})
        assert away["fallback"]
        assert "shown" not in away

    def is_back() -> bool:
        found = service.take("POST", ASK, {"person": guest, "exclude_shown": True})
        return not found["fallback"] and found.get("shown", 0) > 40

    # It is remembered again, too.
    wait_until(is_back, 30)


def together_of(service: Service, *cart: str) -> list[str]:
    """What the live version has counted together with a cart, best first."""
    folder = service.settings.model_repository / MODEL_NAME / "1"
    table, vocabulary = read_together(str(folder)), read_vocabulary(str(folder / FILE_NAME))
    assert table is not None
    return [vocabulary.item_ids[at] for at in table.find(vocabulary.indices_of(cart)).items]


def test_what_people_take_together_comes_first(service: Service) -> None:
    cart = ["i11", "i12"]
    expected = [each for each in together_of(service, *cart) if service.is_on_sale(each)]
    asked = {"items": [*cart, "i11"], "limit": 8}

    def ask() -> Any:
        return service.take("POST", "/v1/items/together", asked)

    # The store was away a moment ago.
    wait_until(lambda: items(ask()) == expected[:8], 20)
    found = ask()
    assert {item["known_by"] for item in found["items"]} == {"together"}
    assert {item["goes_with"] for item in found["items"]} <= set(cart)
    assert (found["model_version"], found["fallback"]) == ("1", False)
    assert "not_counted" not in found
    rest = {**asked, "exclude": expected[:3]}
    assert items(service.take("POST", "/v1/items/together", rest)) == expected[3:11]
    of_one = {**asked, "filter": "'c2' in item.category", "limit": 40}
    filtered = service.take("POST", "/v1/items/together", of_one)
    counted = [each for each in expected if category_of(each) == "c2"]
    assert items(filtered)[: len(counted)] == counted
    # What was never taken with it fills the list, and says so.
    fill = filtered["items"][len(counted) :]
    assert {item["known_by"] for item in fill} == {"similar"}
    assert {category_of(item["item_id"]) for item in fill} == {"c2"}
    assert len(set(items(filtered))) == len(items(filtered))


def test_an_item_that_no_version_knows_goes_with_what_the_model_finds(service: Service) -> None:
    found = service.take("POST", "/v1/items/together", {"items": ["brand-new"], "limit": 4})
    assert len(items(found)) == 4
    assert {item["known_by"] for item in found["items"]} <= {"similar", "popular"}
    assert not [item for item in found["items"] if "goes_with" in item]


def test_what_goes_with_a_cart_knows_the_person_and_the_placement(service: Service) -> None:
    person, cart = uuid4().hex, ["i21"]
    service.take("PUT", "/v1/placements/cart", {"filter": "'c3' in item.category", "limit": 3})
    query = {"items": cart, "person": person, "placement": "cart"}
    first = service.take("POST", "/v1/items/together", query)
    assert (first["person"], first["placement"], len(items(first))) == (person, "cart", 3)
    bought = {"type": "purchase", "item_id": items(first)[0], "event_id": f"{person}-1"}
    then = service.take("POST", "/v1/items/together", {**query, "events": [bought], "record": True})
    assert then["recorded"]
    assert items(then)[:2] == items(first)[1:]
    # The list was theirs: it counts as shown.
    shown = service.take("POST", ASK, {"person": person, "exclude_shown": True})["shown"]
    assert shown == len({*items(first), *items(then)})
    status, problem = service.call("POST", "/v1/items/together", {"items": []})
    assert (status, problem["field"]) == (400, "items")


def test_each_score_says_what_it_is_the_sum_of(service: Service) -> None:
    person = uuid4().hex
    events = [click("i1"), click("i2")]
    plain = {"person": person, "events": events, "limit": 20}
    assert not [item for item in service.take("POST", ASK, plain)["items"] if "parts" in item]

    def is_the_same_list() -> bool:
        """What trends may change between two requests."""
        nonlocal found
        known, found = (service.take("POST", ASK, query) for query in (plain, explained))
        return items(found) == items(known)

    found, explained = {}, {**plain, "explain": True}
    wait_until(is_the_same_list, 10)
    assert "not_explained" not in found
    wanted = [*items(found)[:3], "nowhere"]
    query = {"person": person, "events": events, "items": wanted, "explain": True}
    ranked = service.take("POST", "/v1/rank", query)
    for item in [*found["items"], *ranked["items"][:3]]:
        assert set(item["parts"]) <= set(PARTS)
        assert len(item["parts"]) > 2
        assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-3)
    assert "parts" not in ranked["items"][3]
    # A list of few candidates, too.
    few = {**plain, "filter": "'c2' in item.category", "explain": True}
    assert all(item["parts"] for item in service.take("POST", ASK, few)["items"])
    with pause(pid_of(service, "triton")):
        away = service.take("POST", ASK, {**plain, "explain": True})
        assert away["not_explained"] == "no version of the model answered"

    def is_back() -> bool:
        return not service.take("POST", ASK, {"person": person})["fallback"]

    wait_until(is_back, 30)


def test_types_of_the_settings_are_events_as_any_other(service: Service) -> None:
    person, other = uuid4().hex, uuid4().hex
    best = items(service.take("POST", ASK, {"person": person}))[0]
    sent = [
        {"type": "wishlist", "user_id": person, "item_id": "i1"},
        {"type": "complaint", "user_id": person, "item_id": best},
        {"type": "search", "user_id": person},
        {"type": "stroke", "user_id": person, "item_id": "i1"},
    ]
    told = service.take("POST", EVENTS, sent)
    assert [each["accepted"] for each in told["events"]] == [True, True, True, False]
    assert "wishlist, complaint, search" in told["events"][3]["problem"]["remedy"]
    place = told["events"][0]["place"]
    assert {name.partition("/")[0] for name in place} == {"wishlist"}
    found = service.take("POST", ASK, {"person": person, "min_offset": place})
    wait_until(lambda: service.clicks(person) == 1, 30)
    wait_until(lambda: best not in items(service.take("POST", ASK, {"person": person})), 30)
    assert service.take("GET", f"/v1/people/{person}")["events"][0]["type"] == "click"
    assert found["items"]
    # And in a request, before anybody has counted it.
    events = [{"type": "complaint", "item_id": best}]
    asked = {"person": other, "events": events}
    assert best not in items(service.take("POST", ASK, asked))
    document = service.take("GET", "/openapi.json")
    assert "wishlist" in document["components"]["schemas"]["Event"]["discriminator"]["mapping"]


def place_with(service: Service, **rules: Any) -> str:
    """A placement of its own with these rules."""
    place = f"p{uuid4().hex[:8]}"
    service.take("PUT", f"/v1/placements/{place}", rules)
    return place


def test_a_placement_has_rules_beyond_filters(service: Service) -> None:
    best = items(service.take("POST", ASK, {"person": "eve", "limit": 100}))
    pinned = best[40]
    rules: dict[str, Any] = {
        "limit": 10,
        "pins": [{"item_id": pinned, "place": 2}],
        "at_most": [{"by": "category", "items": 2}],
    }
    bare = {"person": "eve", "placement": place_with(service, **rules)}
    begin = items(service.take("POST", ASK, bare))[:4]
    # Of a category that the places before the promotion have nothing of.
    taken = {category_of(name) for name in begin}
    promoted = next(name for name in reversed(best) if category_of(name) not in taken)
    promotions = [{"filter": f"item.id == '{promoted}'", "every": 5, "label": "spring"}]
    place = place_with(service, **rules, promotions=promotions)
    found = service.take("POST", ASK, {"person": "eve", "placement": place})
    names = items(found)
    assert (len(names), names[1], names[4]) == (10, pinned, promoted)
    kinds = [item.get("placed_by", "") for item in found["items"]]
    assert kinds == ["", "pin", "", "", "promotion", *[""] * 5]
    assert found["items"][4]["label"] == "spring"
    # Five categories: each has its two places.
    held = [category_of(name) for name in names]
    assert {held.count(name) for name in held} == {2}
    assert "missing" not in found
    # Rules of the request hold besides, and the placement's go before.
    own = {"pins": [{"item_id": names[9], "place": 2}, {"item_id": names[8], "place": 1}]}
    both = items(service.take("POST", ASK, {"person": "eve", "placement": place, "rules": own}))
    assert both[:2] == [names[8], pinned]
    alike = {"items": ["i1"], "rules": {"pins": [{"item_id": pinned, "place": 3}]}}
    assert items(service.take("POST", "/v1/items/similar", alike))[2] == pinned
    without = {"person": "eve", "placement": place, "exclude": [pinned]}
    assert pinned not in items(service.take("POST", ASK, without))


def test_boosts_find_what_the_versions_best_hundred_lack(service: Service) -> None:
    text = "'c3' in item.category"
    only = service.take("POST", ASK, {"person": "eve", "filter": text})
    raised = place_with(service, boosts=[{"filter": text, "factor": 1000}])
    found = service.take("POST", ASK, {"person": "eve", "placement": raised})
    assert items(found) == items(only)
    for item, alone in zip(found["items"], only["items"], strict=True):
        assert item["score"] == pytest.approx(alone["score"] + math.log(1000), abs=1e-3)
    buried = place_with(service, boosts=[{"filter": text, "factor": 0.001}])
    found = service.take("POST", ASK, {"person": "eve", "placement": buried})
    assert len(items(found)) == 10
    assert "c3" not in {category_of(name) for name in items(found)}
    # Among what a filter leaves, too.
    some = "item.id.startsWith('i1')"
    both = {"person": "eve", "placement": raised, "filter": some, "limit": 40}
    held = [category_of(name) == "c3" for name in items(service.take("POST", ASK, both))]
    assert held == sorted(held, reverse=True)
    assert 0 < sum(held) < len(held) == 40


def test_rules_know_what_an_app_has_said_of_a_person(service: Service) -> None:
    person, text = uuid4().hex, "person.likes in item.category"
    place = place_with(service, boosts=[{"filter": "person.vip && item.id == 'i42'", "factor": 9}])
    service.take("PUT", f"/v1/people/{person}/attributes", {"attributes": {"likes": "c4"}})

    def categories(**query: Any) -> set[str]:
        return {category_of(name) for name in items(service.take("POST", ASK, query))}

    wait_until(lambda: categories(person=person, filter=text) == {"c4"}, 30)
    ranked = {"person": person, "items": ["i1", "i4", "i9"], "filter": text}
    assert set(items(service.take("POST", "/v1/rank", ranked))) == {"i4", "i9"}
    # Of others nothing is known: no item is certain to be what they like.
    for query in ({"person": uuid4().hex}, {"events": [click("i1")]}):
        assert categories(**query, filter=text) == set()
        unless = f"!has(person.likes) || {text}"
        assert len(categories(**query, filter=unless)) > 1
    for query in ({"person": person}, {"events": [click("i1")]}):
        assert len(items(service.take("POST", ASK, {**query, "placement": place}))) == 10
    status, problem = service.call("GET", f"/v1/popular?filter={quote(text)}")
    assert (status, problem["column"]) == (400, 1)
    assert "the request has no person.likes" in problem["remedy"]


def test_a_filter_on_a_person_keeps_things_from_them_while_nothing_can_be_read(
    service: Service,
) -> None:
    person, unless = uuid4().hex, "!has(person.minor) || 'c2' in item.category"
    service.take("PUT", f"/v1/people/{person}/attributes", {"attributes": {"minor": True}})
    boosted = place_with(service, boosts=[{"filter": "has(person.minor)", "factor": 2}])
    with pause(pid_of(service, "store")):
        status, problem = service.call("POST", ASK, {"person": person, "filter": unless})
        assert (status, problem["type"]) == (503, "/docs#unavailable")
        assert "a filter asks for it" in problem["detail"]
        # What only moves items up or down keeps nothing from anyone.
        assert items(service.take("POST", ASK, {"person": person, "placement": boosted}))
    wait_until(
        lambda: service.call("POST", ASK, {"person": person, "filter": unless})[0] == 200, 30
    )


def test_segments_are_people_by_a_name(service: Service) -> None:
    person, name = uuid4().hex, f"s{uuid4().hex[:8]}"
    path = f"/v1/segments/{name}"
    rules = {"filter": "person.spent > 100 || context.campaign == 'vip'"}
    made = service.take("PUT", path, rules)
    assert made["segment"] == rules
    assert made in service.take("GET", "/v1/segments")["segments"]
    place = place_with(service, filter=f"!segment.{name} || 'c2' in item.category")

    def categories(**query: Any) -> set[str]:
        found = service.take("POST", ASK, {"placement": place, **query})
        return {category_of(item) for item in items(found)}

    assert len(categories(person=person)) > 1
    assert categories(person=person, context={"campaign": "vip"}) == {"c2"}
    service.take("PUT", f"/v1/people/{person}/attributes", {"attributes": {"spent": 101}})
    wait_until(lambda: categories(person=person) == {"c2"}, 30)
    assert len(categories(events=[click("i1")])) > 1
    for text, column, remedy in (
        ("item.price > 1", 1, "a segment is of people"),
        (f"segment.{name}", 1, "no other segment"),
        ("person.", 8, ""),
    ):
        status, problem = service.call("PUT", "/v1/segments/other", {"filter": text})
        assert (status, problem["field"], problem["column"]) == (400, "filter", column), problem
        assert remedy in problem["remedy"]
    status, problem = service.call("POST", ASK, {"filter": "segment.nobody"})
    assert (status, problem["field"], problem["column"]) == (400, "filter", 1)
    assert "there is no segment.nobody: there are" in problem["remedy"]
    broken = {"filter": "true && segment.nobody"}
    status, problem = service.call("PUT", "/v1/placements/broken", broken)
    assert (status, problem["field"], problem["column"]) == (400, "filter", 9)
    status, problem = service.call("DELETE", path)
    assert (status, problem["field"]) == (400, "name")
    assert place in problem["remedy"]
    assert place in try_command(service, "segments", "remove", name).stderr
    service.take("DELETE", f"/v1/placements/{place}")
    assert try_command(service, "segments", "put", name, "--filter", "person.vip").returncode == 0
    wait_until(lambda: service.take("GET", "/v1/segments")["segments"] != [made], 30)
    assert "filter person.vip" in try_command(service, "segments", "list").stdout
    assert service.take("DELETE", path)["name"] == name
    assert service.call("DELETE", path)[0] == 404


def test_a_varied_list_begins_with_what_is_unlike(service: Service) -> None:
    place = place_with(service, diversity={"strength": 0.9, "by": ["category"]})
    found = service.take("POST", ASK, {"person": "eve", "placement": place})
    assert len({category_of(name) for name in items(found)[:5]}) == 5
    assert len(items(found)) == 10


def test_what_is_tried_out_is_logged_with_its_probability(service: Service) -> None:
    tried = [name for name in ("i101", "i102", "i103") if service.is_on_sale(name)]
    text = f"item.id in {tried}"
    place = place_with(service, exploration={"share": 0.5, "filter": text}, limit=4)
    with closing(TopicReader(service.settings.kafka, SERVED)) as reader:
        answers = [
            service.take("POST", ASK, {"person": f"eve{at}", "placement": place})
            for at in range(20)
        ]
        messages = reader.read(20)
    served = [decode(Recommendation, message.value()) for message in messages]
    by_id = {each.recommendation_id: encode(each.items) for each in served}
    explored = 0
    for answer in answers:
        assert msgspec.json.decode(by_id[answer["recommendation_id"]]) == answer["items"]
        assert len(answer["items"]) == 4
        left = set(tried)
        for item in answer["items"]:
            by_chance = 0.5 / len(left) if left else 0.0
            chances = [by_chance] if item.get("placed_by") == "exploration" else [0.5, 1.0]
            chances += [0.5 + by_chance]
            assert any(item["probability"] == pytest.approx(each) for each in chances)
            explored += item.get("placed_by") == "exploration"
            left.discard(item["item_id"])
    assert 0 < explored < 80


def test_a_placement_has_an_objective(service: Service) -> None:
    asked = {"person": uuid4().hex, "candidates": ["i170", "i171", "i172"]}
    wait_until_priced(service, "i171", 20.0)
    wait_until_priced(service, "i172", 80.0)
    looked, bought = ({"type": kind, "user_id": uuid4().hex} for kind in ("click", "purchase"))
    events = [
        *({**looked, "item_id": "i170"} for _ in range(60)),
        *({**looked, "item_id": name} for name in ("i171", "i172") for _ in range(30)),
        *({**bought, "item_id": name} for name in ("i171", "i172") for _ in range(30)),
    ]
    assert service.take("POST", EVENTS, events)["refused"] == 0

    def scores(place: str | None) -> dict[str, float]:
        placed = {} if place is None else {"placement": place}
        found = service.take("POST", ASK, {**asked, **placed, "explain": True})
        for item in found["items"]:
            assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=2e-3)
        return {item["item_id"]: item["parts"].get("boosts", 0.0) for item in found["items"]}

    assert set(scores(None).values()) == set(
        scores(place_with(service, objective="clicks")).values()
    )
    purchases = place_with(service, objective="purchases")
    # Once somebody has asked, it is read how often each item is bought.
    wait_until(lambda: scores(purchases)["i170"] < -0.5, 30)
    wait_until(lambda: scores(purchases)["i171"] > 0.1, 30)

    def are_bought_alike() -> bool:
        found = scores(purchases)
        return abs(found["i171"] - found["i172"]) < 0.01

    wait_until(are_bought_alike, 30)
    of_money = scores(place_with(service, objective="revenue"))
    assert of_money["i172"] - of_money["i171"] == pytest.approx(math.log(4), abs=0.02)
    # Of the whole catalogue, too, as if it were asked for in parts that are scored whole.
    placed = {"person": asked["person"], "placement": purchases}

    def is_the_best_of_all() -> bool:
        """What trends may change between two requests."""
        found: dict[str, float] = {}
        for start in range(0, ITEMS, 40):
            part = [f"i{number}" for number in range(start, start + 40)]
            told = service.take("POST", ASK, {**placed, "candidates": part, "limit": 40})
            found |= {item["item_id"]: item["score"] for item in told["items"]}
        best = sorted(found, key=lambda name: -found[name])
        return items(service.take("POST", ASK, {**placed, "limit": 10})) == best[:10]

    wait_until(is_the_best_of_all, 30)
    own = {"person": asked["person"], "rules": {"objective": "purchases"}, "limit": 5}
    assert len(items(service.take("POST", ASK, own))) == 5
    status, problem = service.call("PUT", "/v1/placements/earns", {"objective": "fame"})
    assert (status, problem["field"], problem["value"]) == (400, "objective", "'fame'")


def test_lists_of_the_stream_follow_the_placement_of_the_settings(
    service: Service, tmp_path: Path
) -> None:
    rules = {
        "filter": "'c1' in item.category",
        "limit": 3,
        "boosts": [{"filter": "true", "factor": 2}],
    }
    place, person = place_with(service, **rules), uuid4().hex
    chosen: dict[str, object] = {"catalogue_refresh_s": 0.5}
    placed, lost = (
        WorkerProcess(service.settings, "api", tmp_path / name, **chosen, placement=name)
        for name in (place, "nowhere")
    )
    # What is not committed would be answered again.
    WorkerProgress(service.settings).wait_for_all(60, [service.worker])
    service.worker.end()
    lost.start()
    assert lost.process is not None
    assert lost.process.wait(60) != 0
    assert "worker.placement: nowhere: there is no such placement" in lost.log.read_text()
    with closing(TopicReader(service.settings.kafka, RECOMMENDATIONS)) as reader:

        def answer(**fields: Any) -> Recommendation:
            """What the stream answers to a click."""
            service.take("POST", EVENTS, click("i5", user_id=person, **fields))
            (message,) = reader.read(1, 60)
            return decode(Recommendation, message.value())

        try:
            with running(placed):
                first = answer()
                names = [item.item_id for item in first.items]
                assert (first.placement, first.missing, first.fallback) == (place, 0, False)
                assert (len(names), {category_of(name) for name in names}) == (3, {"c1"})
                # Changed without a restart; and the event's context is what a request's would be.
                text = "'c2' in item.category && item.id != context.hidden"
                path = f"/v1/placements/{place}"
                revision = service.take("PUT", path, {"filter": text, "limit": 2})["revision"]
                shown = {"context": {"hidden": "i7"}}
                wait_until(lambda: answer(**shown).placement_revision == revision, 30)
                then = answer(**shown)
                assert {category_of(item.item_id) for item in then.items} == {"c2"}
                assert len({item.item_id for item in then.items} - {"i7"}) == 2
                assert then.asked == ListRequest(context={"hidden": "i7"})
                # What cannot be decided is not shown.
                unknown = answer()
                assert (unknown.items, unknown.missing) == ([], 2)
                assert "placement_unusable" in placed.log.read_text()
                # One that is removed stays as it was.
                service.take("DELETE", path)
                assert len(answer(**shown).items) == 2
        finally:
            service.worker.start()


def test_faulty_rules_are_named_by_their_field(service: Service) -> None:
    wait_until_priced(service, "i60", 25.0)
    path = "/v1/placements/faulty"
    for rules, field, column, remedy in (
        (
            {"boosts": [{"filter": "item.cost > 1", "factor": 2}]},
            "boosts[0].filter",
            1,
            "there is no item.cost",
        ),
        (
            {"promotions": [{"filter": "item.attributes.hue == 1", "every": 3}]},
            "promotions[0].filter",
            1,
            "no item has an attribute 'hue'",
        ),
        ({"exploration": {"share": 0.1, "filter": "item."}}, "exploration.filter", 6, ""),
        ({"at_most": [{"by": "attributes.hue", "items": 1}]}, "at_most[0].by", None, "brand"),
        ({"diversity": {"strength": 0.5, "by": ["colour"]}}, "diversity.by[0]", None, "brand"),
        (
            {"pins": [{"item_id": "i1", "place": 1}, {"item_id": "i2", "place": 1}]},
            "pins[1].place",
            None,
            "another pin",
        ),
        ({"exploration": {"share": 0.9}}, "exploration.share", None, "<= 0.5"),
        ({"boosts": [{"filter": "true", "factor": 0}]}, "boosts[0].factor", None, ">= 0.001"),
    ):
        status, problem = service.call("PUT", path, rules)
        assert (status, problem["field"], problem.get("column")) == (400, field, column), problem
        assert remedy in problem["remedy"]
    for rules, field, column in (
        ({"boosts": [{"filter": "item.cost > 1", "factor": 2}]}, "rules.boosts[0].filter", 1),
        ({"boosts": [{"filter": "context.x", "factor": 2}]}, "rules.boosts[0].filter", 1),
        ({"at_most": [{"by": "hue", "items": 1}]}, "rules.at_most[0].by", None),
        ({"at_most": [{"by": "brand", "items": 0}]}, "rules.at_most[0].items", None),
    ):
        status, problem = service.call("POST", ASK, {"rules": rules})
        assert (status, problem["field"], problem.get("column")) == (400, field, column), problem
    place = place_with(service, boosts=[{"filter": "item.price < context.budget", "factor": 2}])
    status, problem = service.call("POST", ASK, {"placement": place})
    assert (status, problem["field"], problem["column"]) == (400, "placement", 14)
    assert service.take("DELETE", f"/v1/placements/{place}")["name"] == place
    status, problem = service.call("DELETE", f"/v1/placements/{place}")
    assert (status, problem["type"]) == (404, "/docs#not-found")
    assert service.call("POST", ASK, {"placement": place})[0] == 400


def try_command(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    variables = environment(service.settings, "api") | folder_variables(service.settings)
    command = [sys.executable, "-m", "deploy.cli", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_health_contract_and_metrics_are_told(service: Service) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        assert service.call("GET", path, secret="") == (200, {"ok": True, "missing": {}})
    status, problem = service.call("GET", "/metrics", secret="")
    assert (status, problem["type"]) == (401, "/docs#no-key")
    assert service.take("GET", "/version")["versions"] == {"stable": 1}
    assert service.take("GET", "/openapi.json")["openapi"] == "3.1.0"
    assert "POST" in service.take("GET", "/docs")
    assert "headwater_api_batch_requests_count" in service.take("GET", "/metrics")


def test_what_trends_answers_while_triton_or_the_store_is_away(service: Service) -> None:
    person = uuid4().hex
    for number in range(12):
        service.take("POST", EVENTS, click(f"i{20 + number}", user_id=uuid4().hex))
    wait_until(lambda: len(service.take("GET", "/v1/popular?limit=12")["items"]) == 12, 30)
    service.take("PUT", "/v1/placements/hidden", {"fallback": "nothing"})
    for name in ("triton", "store"):
        with pause(pid_of(service, name)):
            events = [click("i20", event_id=name)]
            found = service.take("POST", ASK, {"person": person, "events": events})
            assert found["fallback"], name
            assert found["failed"], name
            assert len(found["items"]) == 10
            assert "i20" not in items(found)
            # A filter holds for what trends, too, and a list of it is full of all else there is.
            text = "'c3' in item.category && item.id != 'i23'"
            left = service.take("POST", ASK, {"filter": text, "limit": 20})
            assert left["fallback"]
            assert len(items(left)) == 20
            assert {int(each[1:]) % 5 for each in items(left)} == {3}
            assert "i23" not in items(left)
            hidden = service.take("POST", ASK, {"placement": "hidden"})
            assert (items(hidden), hidden["fallback"], hidden["missing"]) == ([], True, 10)
            # It answers, so it stays ready, and says what is missing.
            wait_until(lambda name=name: name in service.take("GET", "/readyz")["missing"], 20)
            assert service.take("POST", EVENTS, click("i1", user_id=person))["accepted"] == 1

    def is_back() -> bool:
        return not service.take("POST", ASK, {"person": person})["fallback"]

    wait_until(is_back, 30)


def test_the_service_follows_a_rollout_as_a_worker_does(service: Service) -> None:
    settings, schema = service.settings, FeatureSchema(service.settings.features)
    began_ms = current_ms()
    with closing(model_registry(settings, SETTINGS)) as registry:
        # Whoever follows the rollout has it loaded.
        address = registry.write_version(untrained(schema, 2)).address
        stable = registry.repository.version(1).address
    shares = {
        "stable": (1, 0.5, stable),
        "canary": (2, 0.25, address),
        "baseline": (1, 0.25, stable),
    }
    trial = rollout_of("trial", 1000, shares)
    write_rollout_message(settings.kafka, MODEL_NAME, trial, "a test")
    routes = Routes(MODEL_NAME, load=lambda _: Vocabulary([]))
    routes.follow(trial)
    people = [f"u{number}" for number in range(40)]
    assigned = {person: routes.assign(person) for person in people}
    expected = {
        person: (each.shown.version.variant, str(each.shown.version.version), "trial")
        for person, each in assigned.items()
        if each
    }
    assert {variant for variant, *_ in expected.values()} == set(shares)

    def is_followed() -> bool:
        found = {person: service.take("POST", ASK, {"person": person}) for person in people}
        return expected == {
            person: (each["variant"], each["model_version"], each.get("rollout_id"))
            for person, each in found.items()
        }

    wait_until(is_followed, 60)
    canary = next(person for person, each in expected.items() if each[0] == "canary")
    led = service.take("POST", ASK, {"person": canary})
    told = {"recommendation_id": led["recommendation_id"], "position": 0}
    clicked = click(items(led)[0], user_id=canary, **told)
    service.take("POST", "/v1/events", clicked)
    counted = asyncio.run(count_feedback(service.settings, began_ms))
    assert set(counted) == {"canary", "baseline"}
    assert all(counters.counts["requests"] for counters in counted.values())
    assert counted["canary"].counts["clicked"] == 1
    ended = rollout_of("", 1001, {"stable": (1, 1.0, stable)})
    write_rollout_message(settings.kafka, MODEL_NAME, ended, "a test")
    wait_until(lambda: service.take("GET", "/version")["versions"] == {"stable": 1}, 30)


async def count_feedback(settings: Settings, began_ms: int) -> dict[str, VariantCounters]:
    """What a controller counts of the rollout, once it has counted a click."""
    store = RedisRowStore(settings.store)
    scope = FeedbackScope("trial", began_ms, 600_000)
    consumer = FeedbackConsumer(settings.kafka, store, ensure_sources(settings.kafka), scope)
    try:
        await consumer.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            consumer.absorb(0.1)
            counted = consumer.counters()
            if sum(one.counts["clicked"] for one in counted.values()):
                return counted
        raise AssertionError("no click was credited")
    finally:
        consumer.close()
        await store.close()


def rollout_of(
    rollout_id: str, revision: int, shares: dict[str, tuple[int, float, str]]
) -> Rollout:
    return Rollout(
        model=MODEL_NAME,
        versions=[
            RoutedVersion(version=version, variant=variant, share=share, address=address)
            for variant, (version, share, address) in shares.items()
        ],
        phase=RolloutPhase.RUNNING if rollout_id else RolloutPhase.STABLE,
        time=int(time.time() * 1000),
        rollout_id=rollout_id,
        revision=revision,
    )


def find_unequal_parts(service: Service, people: KnownPeople, person: str) -> dict[str, Any]:
    """Items whose score is not what it would be by all that a person did, recomputed.

    The service recomputes it, too: of a guest it knows only the events of the request. What trends
    may change between two requests, so it is left out.
    """
    events = [msgspec.json.decode(raw_event(event)) for event in people.log[person]]
    asked = {"items": [f"i{at}" for at in range(40)], "events": events, "explain": True}
    (own, anew) = (
        {
            item["item_id"]: {name: item.get("parts", {}).get(name, 0.0) for name in PARTS}
            for item in service.take("POST", "/v1/rank", asked | whose)["items"]
        }
        for whose in ({"person": person}, {})
    )
    return {
        name: (parts, anew[name])
        for name, parts in own.items()
        if any(abs(parts[each] - anew[name][each]) > 5e-3 for each in PARTS if each != "trends")
    }


def test_an_answer_is_a_sum_over_the_log_whether_the_worker_runs_sleeps_or_is_dead(
    service: Service,
) -> None:
    worker = service.worker

    async def run() -> None:
        people = KnownPeople(service.settings, people=20, seed=7)

        async def act_often() -> None:
            for number in range(120):
                assert not await people.act()
                person = list(people.log)[number % len(people.log)]
                if number % 12 == 11 and people.log[person]:
                    assert not find_unequal_parts(service, people, person)

        try:
            await act_often()
            worker.signal(signal.SIGSTOP)
            await act_often()
            worker.signal(signal.SIGCONT)
            await act_often()
            worker.kill()
            await act_often()
            worker.start()
            await act_often()
            deadline = time.monotonic() + 60
            while differences := await people.find_differences():
                assert time.monotonic() < deadline, (
                    differences[:3],
                    worker.log.read_text()[-2000:],
                )
                await asyncio.sleep(0.1)
        finally:
            await people.close()

    asyncio.run(run())


def test_gorses_own_client_works_by_another_address(service: Service) -> None:
    """The session of its README, and what an app asks besides."""
    client = Gorse(f"{service.url}/compat/gorse", service.secret)
    person, vase = uuid4().hex, f"vase-{uuid4().hex}"
    user = {"UserId": person, "Labels": ["tall"], "Subscribe": ["news"], "Comment": "Ann"}
    assert client.insert_user(user) == {"RowAffected": 1}
    assert client.get_user(person) == user
    described = {
        "ItemId": vase,
        "IsHidden": False,
        "Categories": ["c1", "vases"],
        "Labels": {"material": "clay", "for": ["flowers"]},
        "Timestamp": "2022-02-24T00:00:00Z",
        "Comment": "A vase of clay",
    }
    assert client.insert_item(described) == {"RowAffected": 1}
    # What was sent is known at once, though no worker has seen it; so a change of it is, too.
    client.update_item(vase, comment="A vase")
    client.update_item(vase, comment="A vase of clay")
    labels = {"material": "clay", "for.flowers": True}
    assert client.get_item(vase) == {**described, "Labels": labels}
    told = [
        {"FeedbackType": "read", "UserId": person, "ItemId": "i1", "Timestamp": "2022-02-24"},
        {"FeedbackType": "star", "UserId": person, "ItemId": "i2", "Timestamp": "2022-02-25"},
    ]
    assert client.insert_feedbacks(told) == {"RowAffected": 2}
    # Sent again, each counts once.
    assert client.insert_feedbacks(told) == {"RowAffected": 2}
    assert client.insert_feedback("purchase", person, "i3", "2022-02-26 10:00:00") == {
        "RowAffected": 1
    }
    wait_until(lambda: len(client.list_feedbacks("read", person)) == 2, 30)
    wait_until(lambda: len(client.list_feedbacks("purchase", person)) == 1, 30)
    assert service.clicks(person) == 2
    assert client.list_feedbacks("star", person)[1] == {
        "FeedbackType": "click",
        "UserId": person,
        "ItemId": "i2",
        "Timestamp": "2022-02-25T00:00:00Z",
        "Comment": "",
    }
    wait_until(lambda: "attributes" in service.take("GET", f"/v1/people/{person}"), 30)
    attributes = service.take("GET", f"/v1/people/{person}")["attributes"]
    assert attributes == {"tall": True, "Subscribe.news": True, "Comment": "Ann"}

    both = client.get_recommend(person, n=10)
    assert [each.score for each in both] == sorted((each.score for each in both), reverse=True)
    names = [each.id for each in both]
    assert len(names) == 10
    assert not {"i1", "i2", "i3"} & set(names)
    pages = [client.get_recommend(person, n=5, offset=offset) for offset in (0, 5)]
    assert [each.id for page in pages for each in page] == names
    of_one = client.get_recommend(person, category="c3", n=8)
    assert {category_of(each.id) for each in of_one} == {"c3"}
    assert len(of_one) == 8
    near = client.get_neighbors("i5", n=4)
    assert len({each["Id"] for each in near} - {"i5"}) == 4
    session = client.session_recommend([{**told[0], "UserId": ""}, told[1]], n=3)
    assert len(session) == 3
    assert not {"i1", "i2"} & {each["Id"] for each in session}

    wait_until(lambda: stored_title(service, vase) == "A vase of clay", 30)
    client.update_item(vase, is_hidden=True, categories=["vases"])
    wait_until(lambda: client.get_item(vase)["IsHidden"], 30)
    assert client.get_item(vase)["Categories"] == ["vases"]
    assert client.get_item(vase)["Comment"] == "A vase of clay"
    assert client.delete_item(vase) == {"RowAffected": 1}
    wait_until(lambda: not _has_item(client, vase), 30)


def stored_title(service: Service, item_id: str) -> str | None:
    """The title of an item as the store has it by now."""

    async def read() -> Item | None:
        store = RedisRowStore(service.settings.store, any_server=True)
        try:
            return await CatalogueCache(store, 1.0).find(item_id)
        finally:
            await store.close()

    item = asyncio.run(read())
    return None if item is None else item.title


def _has_item(client: Gorse, item_id: str) -> bool:
    try:
        client.get_item(item_id)
    except GorseException as error:
        if error.status_code != 404:
            raise
        return False
    return True


def test_gorses_own_client_forgets_a_person(service: Service) -> None:
    client, person = Gorse(f"{service.url}/compat/gorse", service.secret), uuid4().hex
    client.insert_user({"UserId": person, "Labels": ["tall"], "Subscribe": [], "Comment": ""})
    client.insert_feedback("star", person, "i2", "2022-02-25")
    wait_until(lambda: service.clicks(person) == 1, 30)
    wait_until(lambda: "attributes" in service.take("GET", f"/v1/people/{person}"), 30)
    assert client.delete_user(person) == {"RowAffected": 1}
    wait_until(lambda: client.list_feedbacks("star", person) == [], 30)
    wait_until(lambda: service.call("GET", f"/v1/people/{person}")[0] == 404, 30)
    with pytest.raises(GorseException) as refused:
        client.get_user(person)
    assert refused.value.status_code == 404
    # What they do from then on is a new person's.
    client.insert_feedback("star", person, "i3", "2022-02-26")
    wait_until(lambda: [each["ItemId"] for each in client.list_feedbacks("star", person)] == ["i3"])
    assert service.clicks(person) == 1


def test_what_is_popular_with_a_segment_is_what_its_people_did(service: Service) -> None:
    name = f"s{uuid4().hex[:8]}"
    tall, small, guest = ([f"{name}-{kind}-{at}" for at in range(3)] for kind in "tsg")

    def popular(*more: str) -> Any:
        query = "&".join([f"segment={name}", "limit=100", *more])
        status, found = service.call("GET", f"/v1/popular?{query}")
        # The first time the log is read.
        return found if status == 200 else None

    def ids(*more: str) -> list[str]:
        found = popular(*more)
        return [item["item_id"] for item in found["items"]] if found else []

    status, problem = service.call("GET", f"/v1/popular?segment={name}")
    assert (status, problem["field"], problem["value"]) == (400, "segment", repr(name))
    assert f"headwater segments put {name}" in problem["remedy"]
    service.take("PUT", f"/v1/segments/{name}", {"filter": f"person.{name} > 180"})
    for person in (*tall, *small):
        said = {"attributes": {name: 190 if person in tall else 160}}
        service.take("PUT", f"/v1/people/{person}/attributes", said)
    bought = {"type": "purchase", "user_id": tall[0], "item_id": "i21", "event_id": f"{name}-b"}
    events = [
        *({"type": "click", "user_id": person, "item_id": "i20"} for person in tall),
        *({"type": "click", "user_id": person, "item_id": "i22"} for person in small),
        {"type": "click", "user_id": guest[0], "item_id": "i23"},
        # Three clicks are one purchase; one that was sent twice counts once.
        *[bought | {"user_id": person, "event_id": f"{name}-{person}"} for person in tall[:2]],
        *[bought | {"event_id": f"{name}-{tall[0]}"}],
    ]
    assert service.take("POST", "/v1/events", events)["refused"] == 0
    wait_until(lambda: ids() == ["i21", "i20"], 30)
    found = popular()
    assert (found["segment"], found["people"]) == (name, 3)
    assert [item["score"] for item in found["items"]] == pytest.approx([6, 3], rel=1e-3)
    assert found["counted_since"] < found["produced_time"]
    assert {item["reason"]["kind"] for item in found["items"]} == {"popular"}
    assert ids("category=c1") == ["i21"]
    assert ids("filter=" + quote("'c0' in item.category")) == ["i20"]
    # Who is in a segment is decided by what is said of them now.
    service.take("PUT", f"/v1/people/{small[0]}/attributes", {"attributes": {name: 181}})
    service.take("PUT", f"/v1/people/{tall[0]}/attributes", {"attributes": {name: 170}})
    wait_until(lambda: ids() == ["i21", "i20", "i22"], 30)
    assert [item["score"] for item in popular()["items"]] == pytest.approx([3, 2, 1], rel=1e-3)
    # A guest who becomes one of them brings what they did; one takes back; one is forgotten.
    service.take("POST", f"/v1/people/{guest[0]}/merge", {"member": tall[1]})
    wait_until(lambda: set(ids()) == {"i21", "i20", "i22", "i23"}, 30)
    back = {"type": "return", "user_id": tall[1], "item_id": "i21"}
    service.take("POST", "/v1/events", [back])
    wait_until(lambda: set(ids()) == {"i20", "i22", "i23"}, 30)
    service.take("DELETE", f"/v1/people/{small[0]}")
    wait_until(lambda: set(ids()) == {"i20", "i23"}, 30)
    assert popular()["people"] == 2
    # Everyone's are as they were.
    overall = service.take("GET", "/v1/popular?limit=100")
    assert "segment" not in overall
    assert "people" not in overall


def test_gorses_own_client_says_what_is_wrong_and_what_has_no_counterpart(service: Service) -> None:
    url = f"{service.url}/compat/gorse"
    client = Gorse(url, service.secret)
    bad = [
        {"FeedbackType": "read", "UserId": "ann", "ItemId": "i1"},
        {"FeedbackType": "read", "UserId": "", "ItemId": "i1"},
        {"FeedbackType": "smell", "UserId": "ann", "ItemId": "i1"},
    ]
    labels = {"UserId": "ann", "Labels": {"vector": [0.5]}}
    for ask, status, words in [
        (lambda: client.insert_feedbacks(bad[1:2]), 400, "UserId: <missing>: is required"),
        (lambda: client.insert_feedbacks(bad[:2]), 400, "1 were taken, 1 not: send all again"),
        (lambda: client.insert_feedbacks(bad), 400, "feedback[2].FeedbackType: 'smell': expected "),
        (lambda: client.insert_feedback("read", "ann", "i1", "today"), 400, "Timestamp: 'today': "),
        (
            lambda: client.insert_item({"ItemId": "", "IsHidden": False}),
            400,
            "ItemId: '': Expected",
        ),
        (lambda: client.insert_item({"IsHidden": False}), 400, "ItemId: <missing>: is required"),
        (lambda: client.get_recommend("ann", n=300), 400, "n: 300: expected at most 100"),
        (lambda: client.get_recommend("ann", write_back_type="read"), 501, "write-back-type: "),
        (lambda: client.insert_user(labels), 400, "Labels.vector: 0.5: expected texts in a list"),
        (lambda: client.get_user("nobody-at-all"), 404, "nothing is known of this person"),
        (lambda: client.get_users(5), 501, "people are not listed"),
        (lambda: client.get_items(5), 501, "the catalogue is not listed here"),
        (lambda: client.delete_feedback("ann", "i1"), 501, "an event is not taken back"),
        (lambda: Gorse(url, "wrong").get_recommend("ann"), 401, "the key is not known"),
        (lambda: Gorse(f"{url}/old", service.secret).get_recommend("a"), 501, "no such path"),
    ]:
        with pytest.raises(GorseException) as refused:
            ask()
        assert refused.value.status_code == status, refused.value.message
        assert words in refused.value.message
        assert "\n" not in refused.value.message


def test_gorses_asynchronous_client_works_too(service: Service) -> None:
    async def run() -> None:
        client = AsyncGorse(f"{service.url}/compat/gorse", service.secret)
        person = uuid4().hex
        await client.insert_feedback("read", person, "i4", "2022-02-24")
        found = await asyncio.gather(*(client.get_recommend(person, n=5) for _ in range(8)))
        assert {len(each) for each in found} == {5}
        deadline = time.monotonic() + 30
        while not await client.list_feedbacks("read", person):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert "i4" not in [each.id for each in await client.get_recommend(person)]

    asyncio.run(run())


def test_gorses_javascript_client_works_by_another_address(
    service: Service, tmp_path: Path
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = Path(__file__).parent / "gorse_js"
    for name in ("package.json", "package-lock.json", "session.js"):
        shutil.copy(source / name, tmp_path)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(["npm", "ci", *quiet], cwd=tmp_path, check=True, capture_output=True)
    person, vase = uuid4().hex, f"vase-{uuid4().hex}"
    given = [f"{service.url}/compat/gorse", service.secret, person, vase]
    done = subprocess.run(
        ["node", "session.js", *given], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {name: found[name] for name in ("user", "users", "upserted", "inserted", "again")}
    assert rows == {"user": 1, "users": 2, "upserted": 1, "inserted": 2, "again": 1}
    assert {each["ItemId"] for each in found["feedback"]} == {"i1", "i2"}
    assert found["one"]["Timestamp"] == "2022-02-24T10:00:00Z"
    assert len(set(found["recommended"]) - {"i1", "i2"}) == 6
    assert found["page"] == found["recommended"][3:]
    assert {category_of(name) for name in found["category"]} == {"c2"}
    assert len(found["category"]) == 5
    for name in ("session", "neighbors"):
        assert len({each["Id"] for each in found[name]} - {"i1"}) == 3
    assert len(found["popular"]) == 2
    assert found["item"]["Labels"] == ["new"]
    assert found["item"]["Timestamp"] == "2022-02-24T10:00:00.250Z"
    assert found["categories"]["Categories"] == ["c1", "vases"]
    assert (found["categorised"], found["deleted"]) == (1, 1)
    assert [found[name]["code"] for name in ("latest", "listed", "misnamed")] == [501, 501, 400]
    assert "no list of the newest items" in found["latest"]["message"]
    assert "feedback[0].FeedbackType: 'smell'" in found["misnamed"]["message"]


def test_what_metarank_documents_works_by_another_address(service: Service) -> None:
    def take(path: str, body: Any) -> Any:
        return service.take("POST", f"/compat/metarank{path}", body)

    person, name = uuid4().hex, f"cat-{uuid4().hex}"
    shared = {"timestamp": "1599391467000", "id": uuid4().hex}
    described = {
        **shared,
        "event": "item",
        "item": name,
        "fields": [
            {"name": "title", "value": "You favourite cat"},
            {"name": "color", "value": ["white", "black"]},
            {"name": "is_cute", "value": True},
        ],
    }
    clicked = {
        **shared,
        "event": "interaction",
        "ranking": "81f46c34",
        "user": person,
        "session": "session1",
        "type": "click",
        "item": "i1",
        "fields": [{"name": "source", "value": "search"}],
    }
    shown = {**shared, "event": "ranking", "user": person, "items": [{"id": "i1"}]}
    is_told = {**shared, "event": "user", "user": person, "fields": [{"name": "age", "value": 33}]}
    found = take("/feedback", [described, clicked, shown, is_told])
    assert (found["accepted"], found["updated"]) == (3, 0)
    assert found["status"].startswith("1 of ranking: what was shown is not kept")
    # Sent again it is the same event.
    again = take("/feedback", clicked)
    assert {**again, "tookMillis": 0} == {
        "accepted": 1,
        "status": "ok",
        "tookMillis": 0,
        "updated": 0,
    }
    wait_until(lambda: service.clicks(person) == 1, 30)
    wait_until(
        lambda: service.take("GET", f"/v1/people/{person}").get("attributes") == {"age": 33}, 30
    )
    wait_until(lambda: service.call("GET", f"/compat/gorse/api/item/{name}")[0] == 200, 30)
    cat = service.take("GET", f"/compat/gorse/api/item/{name}")
    assert cat["Labels"] == ["color.white", "color.black", "is_cute"]

    asked = {
        **shared,
        "user": person,
        "session": "session1",
        "fields": [{"name": "query", "value": "jeans"}],
        "items": [
            {"id": "nowhere", "fields": [{"name": "relevancy", "value": 2.0}]},
            {"id": "i5", "fields": [{"name": "relevancy", "value": 1.0}]},
            {"id": "i6"},
        ],
    }
    ranked = take("/rank/xgboost", asked)
    assert [item["item"] for item in ranked["items"]][2] == "nowhere"
    scores = [item["score"] for item in ranked["items"]]
    assert scores == sorted(scores, reverse=True)
    assert ranked["not_used"] == ["fields.query", "items.fields.relevancy"]
    assert "features" not in ranked["items"][0]
    own = service.take("POST", "/v1/rank", {"person": person, "items": ["nowhere", "i5", "i6"]})
    assert [item["item"] for item in ranked["items"]] == items(own)
    explained = take("/rank/xgboost?explain=true", asked)
    (first, *parts) = explained["items"][0]["features"]
    assert first["name"] == "reason"
    sums = sum(part["value"] for part in parts if part["name"] in PARTS)
    assert sums == pytest.approx(explained["items"][0]["score"], abs=1e-3)
    assert explained["items"][2]["features"] == []

    best = take("/recommend/similar", {"count": 4, "user": person, "items": ["i7"]})
    assert len({item["item"] for item in best["items"]} - {"i1", "i7"}) == 4
    near = take("/recommend/similar", {"count": 4, "items": ["i7", "i8"]})
    alike = service.take("POST", "/v1/items/similar", {"items": ["i7", "i8"], "limit": 4})
    assert [item["item"] for item in near["items"]] == items(alike)
    wait_until(lambda: take("/recommend/trending", {"count": 1})["items"], 30)
    status, problem = service.call("POST", "/compat/metarank/train/xgboost")
    assert (status, problem["type"]) == (501, "/docs#no-counterpart")


def test_an_import_counts_each_row_and_again_each_event_once(
    service: Service, tmp_path: Path
) -> None:
    person, vase = uuid4().hex, f"vase-{uuid4().hex}"
    told = [
        {"FeedbackType": kind, "UserId": person, "ItemId": item, "Timestamp": f"2022-01-0{day}"}
        for day, (kind, item) in enumerate([("read", "i1"), ("smell", "i2"), ("read", "i3")], 1)
    ]
    item = {"ItemId": vase, "IsHidden": False, "Comment": "A vase of clay"}
    rows = {"feedback": told, "items": [item], "users": [{"UserId": person, "Labels": ["tall"]}]}
    for name, each in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, each)))
    for _ in range(2):
        done = try_command(service, "import", "gorse", str(tmp_path))
        assert "feedback.jsonl: row 2: FeedbackType: 'smell': expected one of" in done.stderr
        assert "sent 1 items, 1 people, 2 events (2 click); 5 rows: 2 of events" in done.stdout
        assert "1 of items, 1 of people, 1 refused, 0 skipped" in done.stdout
    client = Gorse(f"{service.url}/compat/gorse", service.secret)
    wait_until(lambda: _has_item(client, vase), 30)
    wait_until(lambda: client.get_user(person)["Labels"] == ["tall"], 30)
    # The app itself sends it, too.
    client.insert_feedbacks([told[2]])
    client.insert_feedback("read", person, "i9", "2022-02-01")
    wait_until(lambda: service.clicks(person) == 3, 30)
    assert [each["ItemId"] for each in client.list_feedbacks("click", person)] == ["i1", "i3", "i9"]


def run_command(service: Service, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Headwater on the service's servers, which has to succeed."""
    settings = service.settings
    variables = environment(settings, "import") | folder_variables(settings)
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *command],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_guest_becomes_a_member_for_good(service: Service) -> None:
    guest, person = f"g/{uuid4().hex}", uuid4().hex
    path = f"/v1/people/{guest}/merge"
    for sent in (click("i1", user_id=guest), click("i2", user_id=person)):
        service.take("POST", EVENTS, sent)
    wait_until(lambda: service.clicks(guest) == service.clicks(person) == 1, 30)
    merged = service.take("POST", path, {"member": person})
    assert next(iter(merged["place"].values())) >= 0
    service.take("POST", EVENTS, click("i3", user_id=guest))
    wait_until(lambda: service.clicks(person) == 3, 30)
    found = service.take("GET", f"/v1/people/{person}")
    assert [event["item_id"] for event in found["events"]] == ["i1", "i2", "i3"]
    assert service.take("GET", f"/v1/people/{guest}")["merged_into"] == person
    # Whoever goes on to name the guest counts nothing twice, and the first merge stays.
    body = {"person": person, "limit": 5}
    both = items(service.take("POST", ASK, {**body, "guest": guest}))
    assert both == items(service.take("POST", ASK, body))
    service.take("POST", path, {"member": person})
    refused = {
        409: ("POST", path, {"member": "somebody"}),
        400: ("POST", path, {"member": guest}),
    }
    for status, request in refused.items():
        assert service.call(*request)[0] == status
    assert service.call("POST", f"/v1/people/{person}/merge", {"member": guest})[0] == 409
    status, problem = service.call("POST", "/v1/people/anon/merge", {"member": person})
    assert (status, problem["field"]) == (400, "guest")
    status, _ = service.call("POST", path, {"member": person}, secret=service.ask_secret)
    assert status == 403
    assert service.clicks(person) == 3


def test_a_person_is_forgotten_with_a_receipt_and_is_then_new(service: Service) -> None:
    person = uuid4().hex
    path = f"/v1/people/{person}"
    service.take("POST", EVENTS, click("i1", user_id=person, event_id="first"))
    service.take("PUT", f"{path}/attributes", {"attributes": {"city": "Ghent"}})
    wait_until(lambda: service.clicks(person) == 1, 30)
    assert service.call("DELETE", path, secret=service.ask_secret)[0] == 403
    receipt = service.take("DELETE", path)
    states = {place["place"]: place["state"] for place in receipt["places"]}
    assert states["feature row"] == states["attributes"] == "removed"
    assert states["windows"] == "removed"
    assert states["topic clicks"] == "expires"
    assert {name.partition("/")[0] for name in receipt["offsets"]} == {"identities", "people"}
    wait_until(lambda: service.call("GET", path)[0] == 404, 30)
    # The same event again is a new person's.
    service.take("POST", EVENTS, click("i1", user_id=person, event_id="first"))
    wait_until(lambda: service.clicks(person) == 1, 30)
    assert "attributes" not in service.take("GET", path)


def test_what_no_topic_takes_is_the_callers_to_shorten(service: Service) -> None:
    """A body may be as large as a message, and the message is a little larger then."""
    person, largest = uuid4().hex, 1024 * 1024

    def fill(make: Callable[[str], Any]) -> Any:
        return make("x" * (largest - len(json.dumps(make("")))))

    attributes = fill(lambda much: {"attributes": {"city": "Bonn", "about": much}})
    items = fill(
        lambda much: {"items": [{"item_id": "i1"}, {"item_id": "i2", "attributes": {"a": much}}]}
    )
    event = fill(lambda much: click("i1", user_id=person, context={"page": much}))
    events = fill(
        lambda much: [{"type": "click"}, click("i1", user_id=person, context={"p": much})]
    )
    asked = {
        "attributes.about": ("PUT", f"/v1/people/{person}/attributes", attributes),
        "items[1].attributes.a": ("PUT", "/v1/items", items),
        "context.page": ("POST", EVENTS, event),
        "events[1].context.p": ("POST", EVENTS, events),
    }
    for field, request in asked.items():
        _, problem = service.call(*request)
        refused = problem.get("errors", [problem])[-1]
        assert (refused["status"], refused["field"]) == (413, field)
        assert "xxx" in refused["value"]
        assert len(refused["value"]) < 500
        assert "shorten" in refused["remedy"]
    assert service.clicks(person) == 0
