"""The running service keeps its contract, whatever is sent; all servers are real.

A longer run: `SCHEMATHESIS_EXAMPLES=1000 uv run pytest -s tests/integration/test_api_contract.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from headwater_client import ApiClient, AsyncApiClient, Click, Item, ProblemError
from headwater_client.contract import (
    KnownBy,
    PlacementRules,
    PopularQuery,
    RankQuery,
    RecommendationQuery,
    Scope,
    SimilarQuery,
    TogetherQuery,
)
from headwater_client.http import raw_event
from headwater_client.operations import OPERATIONS

from stream.api.proto import path_parts
from tests.harness.api_service import Service, pid_of, serving_api
from tests.harness.both_ways import BothWays
from tests.harness.rollouts import controlling
from tests.harness.rpc_client import RpcCaller, calling, same
from tests.harness.servers import pause
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
TYPESCRIPT = ROOT / "clients" / "typescript"
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES")
# Each field of each type of event, in three forms, takes ten minutes, and so do commands that the
# controller answers one by one: that is the longer run. The halves are asked at the same time.
_HALF = "^/v1/(placements|segments|people)"
_LONG = "^/v1/(events|recommendations|rank)$|/trials(/|$)"
BRIEF = (
    ("--phases", "coverage", "--include-path-regex", _HALF, "--exclude-path-regex", _LONG),
    ("--phases", "coverage", "--exclude-path-regex", f"{_HALF}|{_LONG}"),
    ("--phases", "fuzzing,stateful", "--max-examples", "5"),
)
RUNS = (("--max-examples", EXAMPLES),) if EXAMPLES else BRIEF


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("contract")
    # What is asked of trials, a controller answers.
    with serving_api(folder) as service, controlling(service.settings, folder / "log"):
        yield service


@pytest.fixture(scope="module")
def caller(service: Service) -> Iterator[RpcCaller]:
    with calling(service.grpc_address, service.secret) as caller:
        yield caller


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    log = [tmp_path / f"{number}.log" for number, _ in enumerate(RUNS)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(run_schemathesis(service, words, log[number]))
            for number, words in enumerate(RUNS)
        ]
        ended = [process.wait() for process in running]
    told = "".join(each.read_text() for each in log)
    print(told)
    assert not any(ended), told[-40_000:]


@contextmanager
def run_schemathesis(
    service: Service, words: Sequence[str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(ROOT / "tests" / "schemathesis.toml")),
        *("run", f"{service.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {service.secret}"),
        *("--seed", "1", "--no-color", "--continue-on-failure", *words),
    ]
    variables = os.environ | {"SCHEMATHESIS_HOOKS": "tests.harness.schemathesis_checks"}
    with (
        log.open("wb") as said,
        subprocess.Popen(command, cwd=ROOT, env=variables, stdout=said, stderr=said) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def click(person: str, item_id: str = "i1") -> Click:
    now_ms = int(time.time() * 1000)
    return Click(event_id=uuid4().hex, user_id=person, item_id=item_id, timestamp=now_ms)


def _clicks(api: ApiClient, person: str) -> float:
    try:
        return api.describe_person(person).counters["click"]["all"]
    except ProblemError:
        return 0.0


def test_the_python_client_does_all_that_the_api_does(service: Service) -> None:
    person = f"a/b é {uuid4().hex}"
    with ApiClient(service.url, service.secret) as api:
        first = api.recommend(RecommendationQuery(person=person, limit=5))
        best = first.items[0].item_id
        events = [raw_event(click(person, best))]
        then = api.recommend(RecommendationQuery(person=person, events=events, record=True))
        assert then.recorded
        assert best not in [item.item_id for item in then.items]
        (sent,) = api.send_events([click(person)]).events
        wait_until(lambda: _clicks(api, person) == 2, 30)
        known = api.recommend(RecommendationQuery(person=person, min_offset=sent.place))
        assert known.offsets.items() >= sent.place.items()
        assert [each.item_id for each in api.describe_person(person).events] == [best, "i1"]
        ranked = api.rank_items(RankQuery(person=person, items=["i3", "i4", "nowhere"]))
        assert {item.item_id for item in ranked.items} == {"i3", "i4", "nowhere"}
        assert len(api.find_similar(SimilarQuery(items=["i8"], limit=3)).items) == 3
        together = api.find_together(TogetherQuery(items=["i8", "i9"], person=person, limit=3))
        assert [item.known_by for item in together.items] == [KnownBy.TOGETHER] * 3
        explained = api.recommend(RecommendationQuery(person=person, explain=True, limit=5))
        for item in explained.items:
            assert abs(sum(item.parts.values()) - item.score) < 1e-3
        following = RecommendationQuery(person=person, cursor=explained.cursor)
        page = {item.item_id for item in api.recommend(following).items}
        assert not page & {item.item_id for item in explained.items}
        unseen = api.recommend(RecommendationQuery(person=person, exclude_shown=True))
        assert (unseen.shown or 0) >= 15
        assert not page & {item.item_id for item in unseen.items}
        put = api.put_placement("of-the-client", PlacementRules(limit=2))
        there = api.list_placements().placements
        assert ("of-the-client", put.revision) in [(each.name, each.revision) for each in there]
        placed = api.recommend(RecommendationQuery(person=person, placement="of-the-client"))
        assert (len(placed.items), placed.placement_revision) == (2, put.revision)
        assert api.put_attributes(person, {"city": "Ghent"}).place
        wait_until(lambda: api.describe_person(person).attributes == {"city": "Ghent"}, 30)
        assert len(api.list_popular(PopularQuery(limit=1)).items) <= 1
        assert api.put_items([Item(item_id="of-the-client")]).accepted == 1
        assert api.tell_version().versions == {"stable": 1}
        with pytest.raises(ProblemError, match="limit: 0") as refusal:
            api.recommend(RecommendationQuery(limit=0))
        assert (refusal.value.problem.status, refusal.value.problem.field) == (400, "limit")
    with ApiClient(service.url) as nobody, pytest.raises(ProblemError, match="401"):
        nobody.tell_version()


def test_the_client_for_asyncio_asks_at_once(service: Service) -> None:
    async def ask() -> list[str | None]:
        async with AsyncApiClient(service.url, service.secret) as api:
            together = await api.find_together(TogetherQuery(items=["i8"], limit=2))
            assert len(together.items) == 2
            queries = [RecommendationQuery(person=f"p{number}", limit=1) for number in range(20)]
            return [each.person for each in await asyncio.gather(*map(api.recommend, queries))]

    assert asyncio.run(ask()) == [f"p{number}" for number in range(20)]


def test_the_client_waits_as_the_service_says(service: Service) -> None:
    with ApiClient(service.url, service.slow_secret) as patient:
        for _ in range(3):
            assert patient.tell_version().release
    with ApiClient(service.url, service.slow_secret, tries=1) as hasty:
        hasty_calls = (hasty.tell_version() for _ in range(3))
        with pytest.raises(ProblemError, match="429"):
            list(hasty_calls)


def test_an_event_that_is_sent_again_while_kafka_is_away_counts_once(service: Service) -> None:
    person = uuid4().hex
    event = click(person)
    with ApiClient(service.url, service.secret, timeout_s=30, tries=1) as hasty:
        with (
            pause(pid_of(service, "kafka")),
            pytest.raises(ProblemError, match="503") as refusal,
        ):
            hasty.send_events([event])
        assert refusal.value.problem.remedy == "send it again, with its event_id"
    with ApiClient(service.url, service.secret, timeout_s=30, tries=10) as patient:
        assert patient.send_events([event]).accepted == 1
        patient.send_events([event, click(person)])
        wait_until(lambda: service.clicks(person) >= 2, 60)
        assert service.clicks(person) == 2


def test_cloud_events_count_in_each_mode(service: Service) -> None:
    person = f"cloud-{uuid4().hex}"
    sent = [make_cloud_event(person, "click"), make_cloud_event(person, "look")]
    structured, binary = to_structured_event(sent[0]), to_binary_event(sent[0])
    batch = b"[%s]" % b",".join(to_structured_event(event).body for event in sent)
    batched = HTTPMessage({"content-type": "application/cloudevents-batch+json"}, batch)
    for message in (structured, binary, batched):
        answer = post(service, message)
        assert answer.status_code == 200, answer.text
        assert answer.json()["events"][0]["event_id"] == sent[0].get_id()
    assert answer.json()["events"][1]["problem"]["field"] == "events[1].type"
    refused = post(service, to_binary_event(sent[1]))
    assert (refused.status_code, refused.json()["field"]) == (400, "type")
    wait_until(lambda: service.clicks(person) == 1, 30)
    post(service, to_structured_event(make_cloud_event(person, "click")))
    wait_until(lambda: service.clicks(person) == 2, 30)


def make_cloud_event(person: str, kind: str) -> CloudEvent:
    attributes = {"source": "/shop", "type": f"com.example.{kind}", "subject": person}
    return CloudEvent({**attributes, "datacontenttype": "application/json"}, {"item_id": "i1"})


def post(service: Service, message: HTTPMessage) -> httpx.Response:
    headers = {**message.headers, "Authorization": f"Bearer {service.secret}"}
    return httpx.post(f"{service.url}/v1/events", content=message.body, headers=headers)


def run_npm(*words: str, **variables: str) -> None:
    command = [str(shutil.which("npm")), *words]
    run = subprocess.run(
        command,
        cwd=TYPESCRIPT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
def test_the_typescript_client_is_generated_typed_and_understood(service: Service) -> None:
    lock = TYPESCRIPT / "package-lock.json"
    installed = TYPESCRIPT / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run_npm("ci", "--no-audit", "--no-fund", "--ignore-scripts")
    # What fails here is made anew by `npm run generate` in clients/typescript.
    run_npm("run", "generate", "--", "--check")
    run_npm(
        "test",
        HEADWATER_URL=service.url,
        HEADWATER_KEY=service.secret,
        HEADWATER_SLOW_KEY=service.slow_secret,
    )


# Of these gRPC has no method: probes are its health service, the contract is its reflection, and
# metrics and the page are for who speaks HTTP.
_HTTP_ALONE = {
    *("tell_live", "tell_ready", "tell_started"),
    *("tell_contract", "show_contract", "tell_metrics"),
}
_CALLED = {operation.name for operation in OPERATIONS} - _HTTP_ALONE


def test_grpc_answers_as_http_does(service: Service, caller: RpcCaller) -> None:
    both, person = BothWays(service, caller), "of-both"
    # An hour ago: what is decayed by age, scores too, hardly changes from one answer to the next.
    past_ms = int(time.time() * 1000) - 3_600_000
    event = {"type": "click", "item_id": "i3", "event_id": "both-1", "timestamp": past_ms}
    _put_both(both, person, event)
    for more in (
        {},
        {"events": [event | {"event_id": "both-2", "item_id": "i4"}], "exclude": ["i1"]},
        {"explain": True},
        {"cursor": service.take("POST", "/v1/recommendations", {"person": person})["cursor"]},
        {"candidates": ["i5", "i6", "nowhere"]},
        {"filter": "'c1' in item.category && has(context.at)", "context": {"at": ["home", 2]}},
        {"rules": {"boosts": [{"filter": "'c2' in item.category", "factor": 2.5}]}},
        {"placement": "both", "guest": "guest-of-both"},
    ):
        both.ask("recommend", {"person": person, "limit": 4, **more})
    recorded = {"events": [event | {"event_id": "both-3", "item_id": "i7"}], "record": True}
    ranked = {"person": person, "items": ["i5", "nowhere", "i6"], "explain": True}
    assert both.ask("rank_items", ranked | recorded)["recorded"]
    both.ask("find_similar", {"items": ["i8", "i9"], "limit": 5})
    cart = {"items": ["i8", "i9"], "person": person, "limit": 5, "filter": "'c1' in item.category"}
    both.ask("find_together", cart)
    both.ask("list_popular", {"limit": 3, "category": "c3"})
    popular = "/v1/popular?segment=both"
    wait_until(lambda: service.call("GET", popular)[0] == 200, 30)
    both.ask("list_popular", {"segment": "both"})
    both.ask("tell_version")
    _remove_both(both, person)
    # An operation that is added later has to be asked for here, too.
    assert both.answered == _CALLED


def _put_both(both: BothWays, person: str, event: dict[str, Any]) -> None:
    """Send what there is to read, and read it back."""
    service = both.service
    item = {"item_id": "i-both", "price": 2.5, "category": ["c1"], "attributes": {"stock": 3}}
    both.ask("put_items", {"items": [item]})
    wait_until(lambda: service.call("GET", "/v1/items/i-both")[0] == 200, 30)
    assert both.ask("get_item", item="i-both") == item
    sent = [event | {"user_id": person, "context": {"at": "home"}}, {"type": "look"}]
    assert both.ask("send_events", {"events": sent})["refused"] == 1
    both.ask("put_attributes", {"attributes": {}}, person=person)
    attributes = {"city": "Ghent", "age": 31, "is_new": False, "height": 1.75}
    both.ask("put_attributes", {"attributes": attributes}, person=person)
    path = f"/v1/people/{person}"
    wait_until(lambda: service.clicks(person) == 1, 30)
    wait_until(lambda: "attributes" in service.take("GET", path), 30)
    assert both.ask("describe_person", person=person)["attributes"] == attributes
    segment = {"filter": "person.age > 30"}
    both.ask("put_segment", segment, name="both")
    both.ask("list_segments")
    assert both.ask("get_segment", name="both")["segment"] == segment
    rules = {"limit": 3, "pins": [{"item_id": "i7", "place": 1}], "objective": "revenue"}
    both.ask("put_placement", rules, name="both")
    both.ask("list_placements")
    assert both.ask("get_placement", name="both")["placement"] == rules


def _remove_both(both: BothWays, person: str) -> None:
    """Try other rules out, and remove all; what has gone is made anew before it goes again."""
    tried = {"rules": {"limit": 2}, "reason": "a test", "command_id": "both-begin"}
    both.ask("try_placement", tried, name="both")
    steered = {"reason": "a test", "command_id": "both-end"}
    both.ask("steer_trial", steered, name="both", action="rollback")
    assert both.ask("list_trials", name="both")["trials"][0]["state"] == "rolled_back"
    put = partial(both.service.take, "PUT")
    again = partial(put, "/v1/placements/both", {"limit": 3})
    both.ask("delete_placement", {}, again, name="both")
    again = partial(put, "/v1/segments/both", {"filter": "person.age > 30"})
    both.ask("delete_segment", {}, again, name="both")
    both.ask("delete_item", item="i-both")
    merge = {"member": person, "merge_id": "both"}
    both.ask("merge_guest", merge, guest="guest-of-both")
    both.ask("erase_person", person=person)


def test_grpc_sends_events_that_http_reads_back(service: Service, caller: RpcCaller) -> None:
    person = f"rpc-{uuid4().hex}"
    events = [
        {"type": "click", "user_id": person, "item_id": "i1", "context": {"n": 2, "at": "home"}},
        {"type": "look", "user_id": person, "item_id": "i2"},
        {"type": "click", "user_id": person, "item_id": "i2", "timestamp": 1_700_000_000},
    ]
    heard = caller.call("SendEvents", {"events": events})
    told = service.take("POST", "/v1/events", events)
    assert [each["accepted"] for each in heard["events"]] == [True, False, False]
    assert same(told["events"][1:], heard["events"][1:])
    assert told["events"][0].keys() == heard["events"][0].keys()
    wait_until(lambda: service.clicks(person) == 2, 30)
    described = caller.call("DescribePerson", {"person": person})
    assert same(service.take("GET", f"/v1/people/{person}"), described)


_WRONG_NAME = {"name": "No!"}
_NO_NAME = {"name": "nowhere"}
_TOO_LONG = "x" * 300
# Operation, request and the parts of its path; what HTTP may send and gRPC cannot write, such as a
# text for a number, is not here.
_REFUSED: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("send_events", {"events": [{"type": "look"}, {"item_id": "i1"}]}, {}),
    ("send_events", {"events": [{"type": "click", "user_id": "a", "timestamp": 17}]}, {}),
    ("send_events", {"events": []}, {}),
    ("recommend", {"limit": 0}, {}),
    ("recommend", {"events": [{}, {}]}, {}),
    ("recommend", {"person": "a", "min_offset": {"clicks/77": 1}}, {}),
    ("recommend", {"cursor": "x"}, {}),
    ("recommend", {"person": "a", "guest": "a"}, {}),
    ("recommend", {"exclude_shown": True}, {}),
    ("recommend", {"placement": "nowhere"}, {}),
    ("recommend", {"filter": "item.price <\n item.cost"}, {}),
    ("recommend", {"rules": {"boosts": [{"filter": "item.", "factor": 2.5}]}}, {}),
    ("rank_items", {"person": "ann"}, {}),
    ("rank_items", {"items": ["i1"], "filter": "segment.nobody"}, {}),
    ("find_similar", {"items": ["i1"], "exclude": [""]}, {}),
    ("find_together", {"items": [""]}, {}),
    ("list_popular", {"limit": 0}, {}),
    ("list_popular", {"segment": "nobody"}, {}),
    ("list_popular", {"filter": "item.price <"}, {}),
    ("describe_person", {}, {"person": "nobody at/all"}),
    ("put_attributes", {"attributes": {"age": 3}}, {"person": _TOO_LONG}),
    ("merge_guest", {}, {"guest": "a"}),
    ("merge_guest", {"member": "a"}, {"guest": "a"}),
    ("erase_person", {}, {"person": _TOO_LONG}),
    ("put_items", {"items": [{"item_id": "a", "price": -1.5}]}, {}),
    ("get_item", {}, {"item": "nowhere"}),
    ("delete_item", {}, {"item": _TOO_LONG}),
    ("get_placement", {}, _NO_NAME),
    ("put_placement", {}, _WRONG_NAME),
    ("put_placement", {"at_most": [{"by": "colour", "items": 2}]}, _NO_NAME),
    ("put_placement", {"filter": "item.price <"}, _NO_NAME),
    ("put_placement", {"objective": "fame"}, _NO_NAME),
    ("delete_placement", {}, _NO_NAME),
    ("try_placement", {"rules": {"limit": 2}, "reason": "a test"}, _NO_NAME),
    ("try_placement", {"rules": {"limit": 0}, "reason": "a test"}, _NO_NAME),
    ("steer_trial", {"reason": "a test"}, _NO_NAME | {"action": "praise"}),
    ("steer_trial", {}, _NO_NAME | {"action": "pause"}),
    ("steer_trial", {"reason": "a test"}, _NO_NAME | {"action": "pause"}),
    ("list_trials", {}, _WRONG_NAME),
    ("get_segment", {}, _NO_NAME),
    ("put_segment", {"filter": "person."}, _NO_NAME),
    ("delete_segment", {}, _NO_NAME),
]
# They ask for nothing that could be wrong, but for the key.
_NEVER_WRONG = {"list_placements", "list_segments", "tell_version"}


@pytest.mark.parametrize(("name", "asked", "parts"), _REFUSED)
def test_grpc_refuses_as_http_does(
    service: Service, caller: RpcCaller, name: str, asked: dict[str, Any], parts: dict[str, str]
) -> None:
    BothWays(service, caller).refuse(name, asked, **parts)


def test_each_operation_is_refused_both_ways() -> None:
    assert {name for name, *_ in _REFUSED} == _CALLED - _NEVER_WRONG


def test_grpc_needs_the_same_keys(service: Service, caller: RpcCaller) -> None:
    both = BothWays(service, caller)
    for operation in OPERATIONS:
        if operation.name in _HTTP_ALONE:
            continue
        parts = dict.fromkeys(path_parts(operation), "a")
        asked: dict[str, Any] = {"events": []} if operation.name == "send_events" else {}
        for secret in ("", "hw_wrong"):
            assert both.refuse(operation.name, asked, secret, **parts)["status"] == 401
        if operation.scope not in (None, Scope.ASK):
            refused = both.refuse(operation.name, asked, service.ask_secret, **parts)
            assert refused["status"] == 403


def test_grpc_tells_its_health_to_all_and_what_there_is_to_keys(
    service: Service, caller: RpcCaller
) -> None:
    check = health_pb2_grpc.HealthStub(caller.channel).Check
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "headwater.v1.Headwater"):
        asked = health_pb2.HealthCheckRequest(service=name)
        wait_until(lambda asked=asked: check(asked).status == serving, 10)
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    reflect = reflection_pb2_grpc.ServerReflectionStub(caller.channel).ServerReflectionInfo
    (told,) = reflect(iter([wanted]), metadata=caller.metadata)
    named = {each.name for each in told.list_services_response.service}
    assert {"headwater.v1.Headwater", "grpc.health.v1.Health"} <= named
    with pytest.raises(grpc.RpcError, match="no key was sent"):
        list(reflect(iter([wanted])))


def test_a_call_that_is_no_message_is_refused(service: Service, caller: RpcCaller) -> None:
    raw = caller.channel.unary_unary("/headwater.v1.Headwater/Recommend")
    for wrong in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
        with pytest.raises(grpc.RpcError, match="is no RecommendationQuery"):
            raw(wrong, metadata=caller.metadata, timeout=30)
    with pytest.raises(grpc.RpcError, match="finite"):
        caller.call("PutItems", {"items": [{"item_id": "a", "price": "NaN"}]})
