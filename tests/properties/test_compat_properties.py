"""Whatever a client of another system sends, it is answered, and never by an error of ours."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.api.compat.dialect import PREFIX
from stream.api.compat.gorse import GorseDialect
from stream.api.compat.metarank import MetarankDialect
from tests.harness.http_api import HEADERS, HttpAnswer, OfflineApi, ask
from tests.unit.stream.test_recommender import store_where_trend

GORSE = (
    *("FeedbackType", "UserId", "ItemId", "Timestamp", "Value", "Comment", "IsHidden"),
    *("Categories", "Labels", "Subscribe"),
)
METARANK = (
    *("event", "id", "timestamp", "item", "user", "session", "type", "ranking", "fields", "name"),
    *("value", "items", "count"),
)
FIELDS = (*GORSE, *METARANK)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["a", "ann", "read", "rating", "interaction", "item", "ranking", "2022-02-24"]),
    st.text(max_size=40),
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=8)
    ),
    max_leaves=20,
)
feedback = st.fixed_dictionaries(
    {"FeedbackType": st.sampled_from(["read", "rating", "dislike"]), "ItemId": plain},
    optional={"UserId": plain, "Timestamp": plain, "Value": plain, "Comment": plain},
)
act = st.fixed_dictionaries(
    {"event": st.sampled_from(["interaction", "item", "user"]), "timestamp": plain, "item": plain},
    optional={"user": plain, "type": plain, "id": plain, "fields": values},
)
bodies = st.one_of(
    st.lists(feedback, max_size=3).map(json.dumps).map(str.encode),
    st.lists(act, max_size=3).map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=8).map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=60),
)
PATHS = [
    (operation.method, f"{PREFIX}/{dialect.name}{re.sub('{[a-z]+}', 'a', operation.path)}")
    for dialect in (GorseDialect, MetarankDialect)
    for operation in dialect.operations
]
queries = st.sampled_from(
    ["", "n=3", "n=", "n=x&offset=2", "category=a&category=b", "user-id=ann", "explain=maybe"]
)
requests = st.tuples(st.sampled_from(PATHS), queries, bodies)


@settings(max_examples=20, deadline=None)
@given(st.lists(requests, min_size=10, max_size=40))
def test_no_request_is_an_error_of_the_service(drawn: list[tuple[Any, str, bytes]]) -> None:
    async def work(app: Any) -> list[HttpAnswer]:
        asked = (
            ask(
                app,
                method,
                f"{path}?{query}",
                body,
                HEADERS | {"content-length": str(len(body)), "x-api-version": "2"},
            )
            for (method, path), query, body in drawn
        )
        return await asyncio.gather(*asked)

    for answer, request in zip(
        OfflineApi(store_where_trend("a", "b")).run(work), drawn, strict=True
    ):
        # 503: Kafka is away here.
        assert answer.status in (200, 400, 404, 501, 503), (request, answer.body)
        if answer.status != 200:
            assert b"\n" not in answer.body
            assert answer.body
