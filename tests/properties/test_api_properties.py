"""Whatever a caller sends, the answer is one of the contract's, and no error of the service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from headwater_client.contract import Problem
from headwater_client.operations import OPERATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.api.problems import MEDIA_TYPE
from tests.harness.http_api import HttpAnswer, OfflineApi, ask
from tests.unit.stream.test_recommender import store_where_trend

FIELDS = (
    *("person", "limit", "events", "record", "exclude", "items", "category", "type", "event_id"),
    *("user_id", "item_id", "timestamp", "price", "quantity", "position", "context", "title"),
    "filter",
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["a", "b", "ann", "click", "purchase", 1_700_000_000_000]),
    st.sampled_from(["item.id in context.a", "item.price < context.b", "true", "item.id ==", "("]),
    st.text(max_size=300),
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=8)
    ),
    max_leaves=20,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=60),
)
# Not what is sent to Kafka, which is away here and would be waited for; nor the probes.
PATHS = [
    (operation.method, operation.path.replace("{person}", "ann"))
    for operation in OPERATIONS
    if operation.path not in ("/v1/events", "/v1/items", "/v1/people/{guest}/merge")
    and operation.method != "DELETE"
    and not operation.is_open
]
odd_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
requests = st.tuples(st.sampled_from(PATHS), odd_text, bodies)


@settings(max_examples=40, deadline=None)
@given(st.lists(requests, min_size=10, max_size=40))
def test_no_request_is_an_error_of_the_service(drawn: list[tuple[Any, str, bytes]]) -> None:
    async def work(app: Any) -> list[HttpAnswer]:
        asked = (
            ask(
                app,
                method,
                f"{path}?limit={query}",
                body.replace(b'"record": true', b'"record": 1'),
            )
            for (method, path), query, body in drawn
        )
        return await asyncio.gather(*asked)

    for answer in OfflineApi(store_where_trend("a", "b")).run(work):
        assert answer.status in (200, 400, 404), answer.body
        if answer.status != 200:
            assert answer.headers["content-type"] == MEDIA_TYPE
            problem = msgspec.json.decode(answer.body, type=Problem)
            assert problem.remedy
            assert "\n" not in problem.detail
