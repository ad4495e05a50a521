"""What an app knows of people: the newest message counts, and what is odd is refused by name."""

from __future__ import annotations

import asyncio

import pytest
from headwater_client import EventError, encode

from features.topics import source_hash
from stream.people import AttributesUpdate, parse_attributes, read_attributes, write_attributes
from tests.harness.memory_store import MemoryRowStore

SOURCE, OTHER = source_hash("people", 0), source_hash("people anew", 0)


def attributes_update(offset: int, source: int = SOURCE, **attributes: object) -> AttributesUpdate:
    return AttributesUpdate(attributes, source, offset, 1)  # type: ignore[arg-type]


def test_the_newest_message_counts_whatever_is_read_again() -> None:
    async def run() -> None:
        store = MemoryRowStore()

        async def tell(update: AttributesUpdate) -> object:
            await write_attributes(store, {"ann": update})  # type: ignore[arg-type]
            return await read_attributes(store, "ann")  # type: ignore[arg-type]

        assert await read_attributes(store, "ann") == {}  # type: ignore[arg-type]
        assert await tell(attributes_update(3, city="Ghent")) == {"city": "Ghent"}
        assert await tell(attributes_update(2, city="Rome")) == {"city": "Ghent"}
        assert await tell(attributes_update(4)) == {}
        # The topic was made anew: its offsets begin again.
        assert await tell(attributes_update(0, OTHER, age=3)) == {"age": 3}
        store.rows["person_attributes", "ann"]["attributes"] = b"\xff"
        assert await read_attributes(store, "ann") == {}  # type: ignore[arg-type]
        assert await tell(attributes_update(1, OTHER, age=4)) == {"age": 4}

    asyncio.run(run())


def test_a_message_names_its_person() -> None:
    raw = encode({"user_id": "ann", "attributes": {"city": "Ghent"}})
    assert parse_attributes(b"ann", raw) == ("ann", {"city": "Ghent"})
    assert parse_attributes(b"ann", None) == ("ann", {})
    for key, value, field in (
        (b"bob", raw, "<key>"),
        (None, raw, "<key>"),
        (b"", None, "<key>"),
        (b"x" * 300, None, "<key>"),
        (b"ann", b"{}", "user_id"),
        (b"ann", encode({"user_id": "ann", "attributes": {"a": [1]}}), "attributes[...]"),
    ):
        with pytest.raises(EventError) as refused:
            parse_attributes(key, value)
        assert refused.value.field == field
