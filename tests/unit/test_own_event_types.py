"""Types of events that the settings name: what all else makes of them, and what is refused."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from headwater_client import EventError, SettingsError
from headwater_client.event_types import EVENT_TYPES, FIRST_OWN_CODE, OwnEventType
from headwater_client.events import Interaction, decode
from structlog.testing import capture_logs

from deploy import settings_text
from deploy.settings import load_settings
from features.asyncapi import make_document
from features.kafka import log_topics
from features.rows import apply_event, apply_item_event, empty_group, empty_user, observation
from features.schema import FeatureSchema
from features.settings import EventSettings, FeatureSettings
from features.store import popularity_table
from features.topics import Hash, hash64, list_topics
from stream.api.intake import EventIntake
from stream.api.openapi import make_openapi
from tests.harness.windows import SETTINGS, START_MS, assemble, row
from trainer.windows.assembler import AssemblyState, Position
from trainer.windows.store import WindowStore, read_log
from trainer.windows.writer import WindowLoader

BUILT_IN = list(EVENT_TYPES)
FILE = """
[[events.types]]
name = "wishlist"
weight = 2.0
reward = 0.5

[[events.types]]
name = "complaint"
topic = "complaints"
negative = true

[[events.types]]
name = "search"
topic = "searches"
takes_item = false
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    structlog.reset_defaults()
    yield
    EVENT_TYPES.set_own([])
    assert list(EVENT_TYPES) == BUILT_IN


def read(text: str = FILE) -> None:
    Path("headwater.toml").write_text(text)
    load_settings()


def event(name: str, event_id: str = "e1", **fields: object) -> Interaction:
    struct = EVENT_TYPES[name].struct
    return struct(event_id=event_id, user_id="ann", timestamp=START_MS, **fields)


def test_rows_take_them_by_the_counters_that_are_there() -> None:
    before = FeatureSchema(FeatureSettings())
    read()
    schema = FeatureSchema(FeatureSettings())
    # Stores and model versions of before stay as they are.
    assert schema.row_mark == before.row_mark
    assert schema.contract == before.contract
    row, group = empty_user(schema), empty_group(schema)
    wished = observation(event("wishlist", item_id="lamp"), Hash(7), 0, (Hash(5),))
    assert apply_event(row, wished, schema)
    apply_item_event(group, wished, schema)
    assert row.history == [(START_MS, EVENT_TYPES["click"].code, hash64("lamp"))]
    assert row.categories[5] == [2.0] * len(schema.category_half_lives)
    # A click of the same id is another event, and a replay is none.
    assert not apply_event(row, wished, schema)
    refused = observation(event("complaint", item_id="rug"), Hash(8), 0)
    assert apply_event(row, refused, schema)
    assert list(row.seen).count(hash64("rug")) == 1
    assert len(row.history) == 1


def test_topics_columns_and_documents_follow() -> None:
    read()
    assert {"wishlist", "complaints", "searches"} <= {topic.name for topic in list_topics()}
    assert {"wishlist", "complaints"} <= set(log_topics())
    # What is about no item changes no row: no worker reads it.
    assert "searches" not in log_topics()
    columns = popularity_table(2).columns
    assert "wishlist_1" in columns
    assert not [name for name in columns if name.startswith(("complaints", "searches"))]
    assert "receiveWishlist" in make_document()["operations"]
    document = json.loads(json.dumps(make_openapi()))
    mapping = document["components"]["schemas"]["Event"]["discriminator"]["mapping"]
    assert {"wishlist", "complaint", "search"} <= set(mapping)
    schemas = document["components"]["schemas"]
    assert schemas["OwnWishlistEvent"]["required"] == ["type", "item_id"]
    assert schemas["OwnSearchEvent"]["required"] == ["type"]


def test_the_api_takes_them_and_names_them_to_who_asks_for_another() -> None:
    read()
    intake = EventIntake(EventSettings())
    taken = intake.read(b'{"type": "search", "user_id": "ann"}')
    assert EVENT_TYPES.spec_of(taken).topic == "searches"
    with pytest.raises(EventError, match="item_id: <missing>: is required"):
        intake.read(b'{"type": "wishlist", "user_id": "ann"}')
    with pytest.raises(EventError, match="wishlist, complaint, search"):
        intake.read(b'{"type": "stroke", "user_id": "ann", "item_id": "cat"}')
    assert (
        decode(
            EVENT_TYPES["wishlist"].struct,
            b'{"event_id":"e","user_id":"a","item_id":"i","timestamp":1700000000000}',
        ).item_id
        == "i"
    )


def test_a_code_is_its_names_whatever_comes_and_goes() -> None:
    read()
    codes = {name: EVENT_TYPES[name].code for name in ("wishlist", "complaint", "search")}
    assert all(code >= FIRST_OWN_CODE for code in codes.values())
    assert len(set(codes.values())) == 3
    read('[[events.types]]\nname = "search"\ntakes_item = false\n')
    assert list(EVENT_TYPES) == [*BUILT_IN, "search"]
    read('[[events.types]]\nname = "other"\n' + FILE)
    assert {name: EVENT_TYPES[name].code for name in codes} == codes
    # Written down: rows of before may be read by a process of tomorrow.
    assert EVENT_TYPES["wishlist"].code == FIRST_OWN_CODE + 2632002097


def test_windows_of_a_type_that_is_gone_are_read_and_it_is_said(tmp_path: Path) -> None:
    read()
    events = [event("wishlist", item_id="lamp"), event("click", "e2", item_id="rug")]
    store = WindowStore(str(tmp_path / "windows"))
    list(WindowLoader("log", store, SETTINGS).write(events))
    assert len(read_log(store, store.numbers()).events) == 2
    read("")
    with capture_logs() as logs:
        left = read_log(store, store.numbers()).events
    assert [EVENT_TYPES.spec_of(one).name for one in left] == ["click"]
    [told] = logs
    assert (told["event"], told["topic"], told["events"]) == (
        "window_events_of_no_type",
        "wishlist",
        1,
    )


def test_a_type_that_comes_back_is_gone_on_with() -> None:
    stood = Position("wishlist", "id", 0, 7, [])
    assembler = assemble(AssemblyState(0, (stood,)))
    assert ("wishlist", 0) not in assembler.resume()
    assembler.add(row(0, 5), START_MS)
    assert stood in assembler.progress().positions
    again = assemble(assembler.progress(), sources={("wishlist", 0): "id"})
    assert again.resume() == {("wishlist", 0): 7}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('name = "Wish"', "lower-case"),
        ('name = "click"', "the name is taken"),
        ('name = "skip"', "the name is taken"),
        ('name = "wish"\ntopic = "clicks"', "topic 'clicks' is taken"),
        ('name = "items"', "topic 'items' is taken"),
        ('name = "wish"\ntopic = "a b"', "that Kafka accepts"),
        ('name = "wish"\nweight = -1', "greater than or equal to 0"),
        ('name = "wish"\nweigth = 1', "did you mean weight"),
        ('name = "wish"\ncounts_as = "play"', "counts_as play: expected one of click, purchase"),
        ('name = "wish"\ncounts_as = "click"\nnegative = true', "leave counts_as out"),
        ('name = "wish"\ncounts_as = "click"\ntakes_item = false', "leave counts_as out"),
        ('name = "wish"\nnegative = true\ntakes_item = false', "against what"),
        ('name = "a_b"\n[[events.types]]\nname = "a__b"', "differs from another type's by _"),
        ('name = "ab"\n[[events.types]]\nname = "ab"\nweight = 2', "the name is taken"),
        ('name = "ab"\n[[events.types]]\nname = "ab"', "stands there twice"),
        # CRC-32 of both is 1306201125.
        (
            'name = "plumless"\n[[events.types]]\nname = "buckeroo"\ntopic = "b"',
            "event type 'buckeroo': has the code of plumless: choose another name",
        ),
    ],
)
def test_what_cannot_be_is_one_line_at_the_start(lines: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(f"[[events.types]]\n{lines}\n")
    assert told in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.exit_code == 2


def test_other_settings_may_name_them_and_all_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    read(FILE + '[features]\nseen_by = ["wishlist"]\n')
    settings = load_settings()
    schema = FeatureSchema(settings.features)
    assert EVENT_TYPES["wishlist"].code in schema.seen_by
    text = settings_text.toml(settings)
    assert tomllib.loads(text)["events"]["types"][0]["weight"] == 2.0
    read(text)
    assert load_settings() == settings
    Path("headwater.toml").unlink()
    monkeypatch.setenv("HEADWATER_EVENTS__TYPES", '[{"name": "stroke"}]')
    load_settings()
    assert list(EVENT_TYPES) == [*BUILT_IN, "stroke"]


def test_an_app_has_them_without_settings() -> None:
    EVENT_TYPES.set_own([OwnEventType("stroke", weight=3.0)])
    assert EVENT_TYPES["stroke"].weight == 3.0
    EVENT_TYPES.set_own([OwnEventType("stroke", weight=4.0)])
    assert EVENT_TYPES["stroke"].weight == 4.0
