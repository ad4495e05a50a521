"""Cursors of pages: what was shown comes back, and nothing else is taken for one."""

from __future__ import annotations

import base64

import pytest
from headwater_client import EventError
from headwater_client.contract import MAX_CURSOR_CHARS, MAX_LIMIT, MAX_PAGES, RecommendationQuery
from hypothesis import given
from hypothesis import strategies as st

from features.topics import Hash, hash64
from stream.api.cursor import PageCursor, read_cursor

HASHES = st.integers(-(2**63), 2**63 - 1).map(Hash)


@given(HASHES, st.integers(0, MAX_PAGES), st.lists(HASHES, max_size=40))
def test_a_cursor_comes_back_as_it_was(question: Hash, page: int, shown: list[Hash]) -> None:
    cursor = PageCursor(question, page, tuple(shown))
    assert PageCursor.decode(cursor.encode(), question) == cursor


@given(st.text(max_size=60))
def test_nothing_else_is_a_cursor(text: str) -> None:
    with pytest.raises(EventError, match="cursor: ") as refused:
        PageCursor.decode(text, Hash(7))
    assert "ask without one for the first page" in str(refused.value)


@given(st.integers(0, 1000), st.integers(0, 7))
def test_a_cursor_that_was_changed_is_refused(place: int, bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(_padded(PageCursor(Hash(7), 1, (Hash(3),)).encode())))
    raw[place % len(raw)] ^= 1 << bit
    changed = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    with pytest.raises(EventError, match="expected a cursor of an answer"):
        PageCursor.decode(changed, Hash(7))


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


def test_a_cursor_of_another_question_is_refused() -> None:
    asked = RecommendationQuery(person="ann", filter="item.price < 5", placement="home")
    text = read_cursor(asked).turn(["a", "b"])
    for other in (
        RecommendationQuery(person="bob", filter="item.price < 5", placement="home", cursor=text),
        RecommendationQuery(person="ann", placement="home", cursor=text),
        RecommendationQuery(person="ann", filter="item.price < 5", cursor=text),
        RecommendationQuery(filter="item.price < 5", placement="home", cursor=text),
        RecommendationQuery(
            person="ann",
            filter="item.price < 5",
            placement="home",
            cursor=text,
            candidates=["a"],
        ),
    ):
        with pytest.raises(EventError, match="another person, placement, filter or candidates"):
            read_cursor(other)
    # What a page may change: its length, what has happened meanwhile, what is left out besides.
    again = RecommendationQuery(
        person="ann",
        filter="item.price < 5",
        placement="home",
        cursor=text,
        limit=3,
        exclude=["c"],
        context={"device": "phone"},
    )
    assert read_cursor(again).shown == (hash64("a"), hash64("b"))


def test_pages_come_to_an_end_and_the_longest_cursor_may_be_sent() -> None:
    cursor, pages, longest = PageCursor(Hash(1)), 1, ""
    while text := cursor.turn(f"{pages}/{place}" for place in range(MAX_LIMIT)):
        cursor, pages, longest = PageCursor.decode(text, Hash(1)), pages + 1, text
    assert pages == MAX_PAGES
    assert len(cursor.shown) == (MAX_PAGES - 1) * MAX_LIMIT
    assert len(longest) <= MAX_CURSOR_CHARS
