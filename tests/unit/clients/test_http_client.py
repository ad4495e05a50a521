"""What the clients of the HTTP API send and understand, against a peer that says its lines.

The service itself is asked in tests/integration/test_api_contract.py; this file runs where only the
client is installed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from headwater_client import ApiClient, AsyncApiClient, Click, ProblemError, ServerError
from headwater_client.contract import (
    PlacementRules,
    PopularQuery,
    Problem,
    RankQuery,
    RecommendationQuery,
    SegmentRules,
    SimilarQuery,
)
from headwater_client.errors import SettingsError
from headwater_client.events import Item, encode
from headwater_client.http import raw_event
from headwater_client.operations import OPERATIONS

CLICK = Click(event_id="e1", user_id="ann", item_id="lamp", timestamp=1_700_000_000_000)
LIST = {
    "recommendation_id": "r",
    "items": [],
    "model_version": "1",
    "variant": "stable",
    "fallback": False,
    "produced_time": 1,
    "of_a_newer_release": 7,
}
BUSY = Problem(type="/docs#rate", title="Too many requests", status=429, detail="wait")


@dataclass
class Peer:
    """A server that answers what it is told to, in order, and remembers what it was asked."""

    answers: list[tuple[int, Any, dict[str, str]]]
    url: str = ""
    asked: list[tuple[str, str, Any, Any]] = field(default_factory=list)


@contextmanager
def peer(*answers: tuple[int, Any, dict[str, str]]) -> Iterator[Peer]:
    told = Peer(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            document = json.loads(raw) if raw else None
            told.asked.append((self.command, self.path, document, self.headers["Authorization"]))
            status, body, headers = told.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            sent = body if isinstance(body, bytes) else encode(body)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  (http.server's names)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_operation_is_sent_as_the_contract_has_it() -> None:
    items = {"items": [], "produced_time": 1}
    answers = [
        {"accepted": 1, "refused": 0, "events": [{"accepted": True, "event_id": "e1"}]},
        LIST,
        LIST,
        LIST,
        items,
        {
            "person": "a/b",
            "counters": {},
            "events": [],
            "seen": 0,
            "categories": 0,
            "offsets": {},
        },
        {"place": {"people/0": 1}},
        {"accepted": 1},
        {"placements": []},
        {"name": "home", "revision": 7, "placement": {"limit": 4}},
        {"name": "home", "revision": 8},
        {"segments": []},
        {"name": "vip", "revision": 9, "segment": {"filter": "person.vip"}},
        {"name": "vip", "revision": 10},
        {"release": "1", "versions": {}},
    ]
    with peer(*((200, answer, {}) for answer in answers)) as told, ApiClient(told.url, "k") as api:
        assert api.send_events([CLICK]).accepted == 1
        asked = RecommendationQuery(person="ann", events=[raw_event(CLICK)], record=True)
        assert api.recommend(asked).variant == "stable"
        api.rank_items(RankQuery(items=["lamp"]))
        api.find_similar(SimilarQuery(items=["lamp"], limit=3))
        api.list_popular(PopularQuery(category="a b"))
        assert api.describe_person("a/b").person == "a/b"
        api.put_attributes("a/b", {"city": "Ghent"})
        api.put_items([Item(item_id="lamp", available=False)])
        assert api.list_placements().placements == []
        assert api.put_placement("home", PlacementRules(limit=4)).revision == 7
        assert api.delete_placement("home").revision == 8
        assert api.list_segments().segments == []
        assert api.put_segment("vip", SegmentRules(filter="person.vip")).revision == 9
        assert api.delete_segment("vip").revision == 10
        assert api.tell_version().release == "1"
    event = {"type": "click", "event_id": "e1", "user_id": "ann", "item_id": "lamp"}
    event |= {"timestamp": 1_700_000_000_000}  # type: ignore[dict-item]
    # Of a query only what is not as by default: an older API does not know newer fields.
    assert [each[:3] for each in told.asked] == [
        ("POST", "/v1/events", [event]),
        ("POST", "/v1/recommendations", {"person": "ann", "events": [event], "record": True}),
        ("POST", "/v1/rank", {"items": ["lamp"]}),
        ("POST", "/v1/items/similar", {"items": ["lamp"], "limit": 3}),
        ("GET", "/v1/popular?category=a+b", None),
        ("GET", "/v1/people/a%2Fb", None),
        ("PUT", "/v1/people/a%2Fb/attributes", {"attributes": {"city": "Ghent"}}),
        ("PUT", "/v1/items", {"items": [{"item_id": "lamp", "available": False}]}),
        ("GET", "/v1/placements", None),
        ("PUT", "/v1/placements/home", {"limit": 4}),
        ("DELETE", "/v1/placements/home", None),
        ("GET", "/v1/segments", None),
        ("PUT", "/v1/segments/vip", {"filter": "person.vip"}),
        ("DELETE", "/v1/segments/vip", None),
        ("GET", "/version", None),
    ]
    assert {key for *_, key in told.asked} == {"Bearer k"}


def test_both_clients_have_all_operations() -> None:
    structured = {each.name for each in OPERATIONS if each.answer and not each.is_open}
    for client in (ApiClient, AsyncApiClient):
        methods = {name for name in vars(client) if not name.startswith("_")} - {"close"}
        assert methods == structured, "add what is missing to headwater_client/http.py"


def test_what_the_api_cannot_do_now_is_asked_again_as_it_says() -> None:
    away = Problem(type="/docs#unavailable", title="A server is away", status=503)
    refusals = [(429, BUSY, {"Retry-After": "0"}), (503, away, {"Retry-After": "0"})]
    with peer(*refusals, (200, LIST, {})) as told, ApiClient(told.url) as api:
        assert api.recommend(RecommendationQuery(person="ann")).variant == "stable"
        assert [each[2] for each in told.asked] == [{"person": "ann"}] * 3
    with (
        peer(*refusals) as told,
        ApiClient(told.url, tries=2) as api,
        pytest.raises(ProblemError, match="503 A server is away"),
    ):
        api.recommend(RecommendationQuery())


def test_a_refusal_is_an_error_with_its_problem() -> None:
    problem = Problem(
        type="/docs#invalid-field",
        title="A field is not as it must be",
        status=400,
        detail="limit: 0: Expected `int` >= 1",
        field="limit",
    )
    page = (502, b"<h1>Bad gateway</h1>", {"Content-Type": "text/html"})
    with peer((400, problem, {}), page) as told, ApiClient(told.url) as api:
        with pytest.raises(ProblemError, match="400 A field is not as it must be: limit: 0") as got:
            api.recommend(RecommendationQuery())
        assert got.value.problem == problem
        with pytest.raises(ProblemError, match="502 Bad Gateway: <h1>Bad gateway</h1>"):
            api.recommend(RecommendationQuery())
        assert len(told.asked) == 2


def test_the_client_for_asyncio_does_the_same() -> None:
    async def ask(url: str) -> None:
        async with AsyncApiClient(url, "k") as api:
            answers = await asyncio.gather(
                *(api.recommend(RecommendationQuery(person=name)) for name in ("ann", "bob"))
            )
            assert [answer.variant for answer in answers] == ["stable", "stable"]
            with pytest.raises(ProblemError, match="404"):
                await api.describe_person("cleo")

    nobody = Problem(type="/docs#not-found", title="Nothing is there", status=404)
    busy = (429, BUSY, {"Retry-After": "0"})
    with peer(busy, (200, LIST, {}), (200, LIST, {}), (404, nobody, {})) as told:
        asyncio.run(ask(told.url))
        assert min(each[1] for each in told.asked) == "/v1/people/cleo"


def test_where_nothing_answers_the_address_is_told() -> None:
    with peer() as told:
        url = told.url
    away = rf"{url}: .*is `headwater api` running there\?"
    with ApiClient(url, tries=1) as api, pytest.raises(ServerError, match=away):
        api.tell_version()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "shop.example:8080"}, "url: 'shop.example:8080': expected http://HOST:PORT"),
        ({"timeout_s": 0}, "timeout_s: 0: expected more than 0 seconds"),
        ({"tries": 0}, "tries: 0: expected 1 or more"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        ApiClient(**{"url": "http://127.0.0.1:8080", **options})
