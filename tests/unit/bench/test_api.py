"""What the benchmark of the HTTP API sends, and what it makes of the answers."""

from __future__ import annotations

import json

import pytest
from headwater_client import Item
from headwater_client.errors import ServerError
from headwater_client.operations import OPERATIONS

from bench.api.__main__ import CANDIDATES, ApiOptions, make_requests, show
from bench.api.requests import HttpAnswers, Target
from bench.harness.catalogue import extend_catalogue
from tests.harness.builders import click, log_of


def test_requests_of_each_kind_are_whole_and_for_people_of_the_log() -> None:
    log = log_of([click(f"u{n % 5}", f"i{n}", n) for n in range(2 * CANDIDATES)])
    paths = {operation.path for operation in OPERATIONS}
    for requests in make_requests(log, Target(80, "hw_secret")).values():
        head, _, body = requests[0].partition(b"\r\n\r\n")
        assert head.split(b" ")[1].decode() in paths
        assert b"Authorization: Bearer hw_secret\r\n" in head
        assert f"Content-Length: {len(body)}".encode() in head
        asked = json.loads(body)
        for each in asked if isinstance(asked, list) else [asked]:
            person = each.get("person", each.get("user_id", "u0"))
            assert person in {f"u{n}" for n in range(5)}


def test_a_catalogue_grows_by_items_of_its_own_with_prices_that_share_it_out() -> None:
    known = [Item(item_id="i", title="A")]
    items = extend_catalogue(known, 2_000)
    assert items == extend_catalogue(known, 2_000)
    assert (len(items), items[0].title) == (2_000, "A")
    assert len({item.item_id for item in items}) == len(items)
    assert sum((item.price or 0) < 0.1 for item in items) == pytest.approx(200, rel=0.3)


def test_figures_are_of_answers_alone() -> None:
    answers = HttpAnswers(took_s=2.0)
    for _ in range(10):
        answers.note(0.01, 200, b'{"fallback":false}')
    found = answers.summarise()
    assert (found["requests_per_second"], found["fallbacks"]) == (5.0, 0)
    assert found["p99_ms"] == pytest.approx(10)
    table, line = show({"recommendations": {"most": found, "half": found}}, ApiOptions(items=2_000))
    assert table.row_count == 1  # type: ignore[union-attr]
    assert line == "fallbacks 0"
    other = HttpAnswers(took_s=1.0)
    for _ in range(5):
        other.note(0.03, 200, b'{"fallback":true}')
    answers.add(other)
    found = answers.summarise()
    assert (found["requests_per_second"], found["fallbacks"], found["requests"]) == (5.0, 5, 15)
    assert found["p50_ms"] == pytest.approx(10)
    answers.note(0.01, 429, b"")
    with pytest.raises(ServerError, match="429: 1"):
        answers.summarise()
