"""The exercise: a new event type is one entry of the registry, and all else follows.

Nothing may take it for a click.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from headwater_client import EventProducer, KafkaSettings, SettingsError
from headwater_client.event_types import (
    CLICK,
    EVENT_TYPES,
    FIRST_CODE_OUTSIDE_ROWS,
    PURCHASE,
    EventRegistry,
    EventSpec,
)
from headwater_client.events import Click, Interaction, Item, Purchase, decode, encode

from deploy.demo.tally import PopularityRule
from deploy.jobs.replay import replay
from deploy.rollout.feedback.attribution import AttributionWindow, ServedRecommendation
from deploy.rollout.feedback.consumer import list_topics as list_feedback_topics
from deploy.rollout.feedback.counters import VariantCounters
from features.asyncapi import make_document
from features.columns import decode_user, encode_user
from features.rows import apply_event, apply_item_event, empty_group, empty_user, observation
from features.rows import popularity as item_popularity
from features.schema import FeatureSchema, RowMark
from features.settings import FeatureSettings
from features.store import popularity_table, views_for
from features.topics import Hash, hash64, list_topics
from tests.harness.windows import SETTINGS, START_MS
from tools.measure_code import PRODUCT, ROOT, source_files
from trainer.datasets.log import DataSource, Log, load_log
from trainer.datasets.tables import ColumnMapping, mapping_from_options
from trainer.network.layers import Architecture
from trainer.network.model import TemporalModel
from trainer.windows.store import WindowStore, read_log
from trainer.windows.writer import WindowLoader

SOURCE = Hash(7)


class Wish(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person put an item on the wish list."""


class Block(Interaction, frozen=True, kw_only=True, omit_defaults=True):
    """A person said no to an item."""


CODE = len(EVENT_TYPES.with_counters) + 1
OTHER = FIRST_CODE_OUTSIDE_ROWS + len(EVENT_TYPES) - CODE + 1
WISH = EventSpec("wish", Wish, "wishes", code=CODE, weight=2.0, reward=0.5)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one entry, in this process, for one test."""
    for name in ("_by_name", "_by_topic", "_by_struct"):
        monkeypatch.setattr(EVENT_TYPES, name, dict(getattr(EVENT_TYPES, name)))
    EVENT_TYPES.register(WISH)


def wish(number: int = 0, item: str = "lamp", time_ms: int = START_MS) -> Wish:
    return Wish(event_id=f"c{number}", user_id="ann", item_id=item, timestamp=time_ms)


def test_it_is_written_read_and_sent_to_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(Wish, encode(wish())) == wish()
    assert EVENT_TYPES.spec_of(wish()) is EVENT_TYPES["wish"] is WISH
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(EventProducer, "send_raw", lambda _, *raw: sent.append(raw[:2]))
    with EventProducer(KafkaSettings("localhost:1"), {"log_level": "0"}) as events:
        events.send(wish())
        made = events.send_interaction("wish", user_id="bob", item_id="lamp")
    assert sent == [("wishes", "ann"), ("wishes", "bob")]
    assert isinstance(made, Wish)


def test_its_topic_is_made_and_has_columns_in_the_store() -> None:
    [topic] = [topic for topic in list_topics() if topic.name == "wishes"]
    assert topic.partitioned
    assert topic.config == list_topics()[0].config
    columns = popularity_table(2).columns
    assert {"wishes_0", "wishes_1", "wishes_loaded", "clicks_0"} <= set(columns)
    assert views_for(2)["topics"][:2] == ["clicks", "purchases"]
    assert views_for(2)["topics"][-1] == "wishes"
    read = list_feedback_topics()
    assert read[0] == "recommendations"
    assert {"clicks", "purchases", "wishes", "impressions"} <= set(read)


def test_it_is_counted_as_itself_with_its_own_weight() -> None:
    schema = FeatureSchema(FeatureSettings())
    row, group = empty_user(schema), empty_group(schema)
    event = observation(wish(), SOURCE, 0, (Hash(5),))
    assert apply_event(row, event, schema)
    apply_item_event(group, event, schema)
    half_lives = len(schema.user_half_lives)
    assert row.counters == [0.0] * 2 * half_lives + [1.0] * half_lives
    assert row.history == [(START_MS, CODE, hash64("lamp"))]
    assert row.categories[5] == [2.0] * len(schema.category_half_lives)
    assert not row.seen
    assert item_popularity([(3, group)], START_MS, schema)[0] == 2.0
    # A click with the same event_id is another event.
    click = Click(event_id="c0", user_id="ann", item_id="lamp", timestamp=START_MS)
    assert apply_event(row, observation(click, SOURCE, 1), schema)
    popularity = PopularityRule(["lamp", "rug"], schema)
    popularity.add(wish())
    popularity.add(Click(event_id="x", user_id="bob", item_id="rug", timestamp=START_MS))
    assert popularity.has_in_top("lamp", set(), START_MS)


def test_rows_and_stores_of_before_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    click = Click(event_id="e", user_id="ann", item_id="lamp", timestamp=START_MS)
    now = FeatureSchema(FeatureSettings())
    with monkeypatch.context() as before:
        before.setattr(EVENT_TYPES, "_by_name", {"click": CLICK, "purchase": PURCHASE})
        old = FeatureSchema(FeatureSettings())
        row = empty_user(old)
        apply_event(row, observation(click, SOURCE, 0), old)
        stored = encode_user(row)
        mark = RowMark(old.row_mark)
    again = decode_user(stored, now)
    assert again.counters == row.counters + [0.0] * len(now.user_half_lives)
    assert apply_event(again, observation(wish(), SOURCE, 1), now)
    assert again.counters[-1] == 1.0
    assert mark.fits(RowMark(now.row_mark))
    assert list(old.contract.differences(now.contract)) == [
        "event_types ['click', 'purchase'], not ['click', 'purchase', 'wish']"
    ]


def test_a_model_of_before_keeps_its_shape() -> None:
    size = {"items": 4, "user_features": 42, "trends": 3, "history": 8, "width": 8}
    of_before = Architecture(**size, layers=1, heads=2, dropout=0.0)
    of_now = Architecture(**size, layers=1, heads=2, dropout=0.0, event_types=3)
    rows = [len(TemporalModel(shape).events.weight) for shape in (of_before, of_now)]
    assert rows[0] * 4 == rows[1] * 3


def test_it_is_in_the_document() -> None:
    document = make_document()
    assert document["operations"]["receiveWishes"]["channel"] == {"$ref": "#/channels/wishes"}
    assert document["components"]["messages"]["Wish"]["summary"] == Wish.__doc__
    assert "Wish" in document["components"]["schemas"]
    json.dumps(document)


def test_tables_can_have_it(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "user_id,item_id,timestamp,type\nann,lamp,1700000000,wish\nann,lamp,1700000001,click\n"
    )
    log = load_log(DataSource(tmp_path, path, ColumnMapping()))
    assert [type(event) for event in log.events] == [Wish, Click]
    mapping = mapping_from_options([], ["basket=wish"])
    path.write_text("user_id,item_id,timestamp,type\nann,lamp,1700000000,basket\n")
    [event] = load_log(DataSource(tmp_path, path, mapping)).events
    assert isinstance(event, Wish)
    with pytest.raises(SettingsError, match=r"one of click, purchase, .*, wish and skip"):
        mapping_from_options([], ["look"])


def test_windows_keep_it(tmp_path: Path) -> None:
    events = [
        wish(0, time_ms=START_MS),
        Purchase(event_id="p", user_id="ann", item_id="lamp", timestamp=START_MS + 1),
    ]
    store = WindowStore(str(tmp_path))
    list(WindowLoader(Log(events, []).fingerprint, store, SETTINGS).write(events))
    [rows] = [store.read(number).rows for number in store.numbers()]
    assert [row.topic for row in rows] == ["wishes", "purchases"]
    assert list(read_log(store, store.numbers()).events) == events


def test_a_replay_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventProducer, "send_raw", lambda *_: None)
    with EventProducer(KafkaSettings("localhost:1"), {"log_level": "0"}) as producer:
        sent = replay(Log([wish(n) for n in range(3)], [Item(item_id="lamp")]), producer)
    assert sent.events_by_type == {"wish": 3}
    assert sent.events == 3


def test_what_led_to_it_is_credited() -> None:
    window = AttributionWindow(1000)
    window.remember("ann", ServedRecommendation("r", 0, 3, {"canary": [hash64("lamp")]}))
    [credit] = window.attribute(wish(), 1)
    assert credit.event_code == CODE
    counters = VariantCounters()
    counters.add_reward(3, 0.5, credit.event_code)
    assert (counters.counts["clicked"], counters.counts["bought"]) == (0, 0)
    assert counters.reward.sum() == 0.5


def test_all_that_an_entry_says_is_carried() -> None:
    spec = EventSpec("block", Block, "blocks", code=OTHER, negative=True)
    assert EVENT_TYPES.register(spec).negative
    schema = FeatureSchema(FeatureSettings(seen_by=frozenset()))
    assert OTHER in schema.seen_by
    assert OTHER not in schema.event_codes
    row = empty_user(schema)
    event = Block(event_id="e", user_id="ann", item_id="rug", timestamp=START_MS)
    assert apply_event(row, observation(event, SOURCE, 0), schema)
    assert list(row.seen) == [hash64("rug")]
    assert (row.history, set(row.counters)) == ([], {0.0})
    assert "blocks_0" not in popularity_table(2).columns


class Wider(Interaction, frozen=True, kw_only=True):
    """A type whose struct has a field of its own."""

    dwell_ms: int = 0


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (EventSpec("click", Block, "x", 4), "the name is taken"),
        (EventSpec("skip", Block, "x", 4), "the name is taken"),
        (EventSpec("Add", Block, "x", 4), "lower-case"),
        (EventSpec("block", Block, "a b", 4), "that Kafka accepts"),
        (EventSpec("block", Block, "items", 4), "topic 'items' is taken"),
        (EventSpec("block", Block, "clicks", 4), "topic 'clicks' is taken"),
        (EventSpec("block", Click, "x", 4), "Click is the struct of another type"),
        (EventSpec("block", Wider, "x", 4), "use context"),
        (EventSpec("block", Block, "x", 7), "code 7: expected 4"),
        (
            EventSpec("block", Block, "x", 4, counts_as="click"),
            f"code 4: expected {FIRST_CODE_OUTSIDE_ROWS + 8}",
        ),
        (EventSpec("block", Block, "x", OTHER, takes_back="look"), "no such type: look"),
        (EventSpec("block", Block, "x", 4, weight=-1), "expected 0 or more"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(spec: EventSpec, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        EVENT_TYPES.register(spec)
    assert spec not in EVENT_TYPES.values()


def test_what_is_not_registered_is_no_click() -> None:
    event = Block(event_id="e", user_id="ann", item_id="rug", timestamp=START_MS)
    with pytest.raises(SettingsError, match="Block is no registered event type"):
        observation(event, SOURCE, 0)
    with pytest.raises(KeyError):
        EventRegistry(CLICK).spec_of_topic("wishes")


# Where code is about clicks and purchases themselves: their settings, stored counters, ratings, and
# what a shop has to order.
ABOUT_TWO_TYPES = {
    "bench/harness/load.py",
    "clients/python/src/headwater_client/__init__.py",
    "clients/python/src/headwater_client/actions.py",
    "clients/python/src/headwater_client/event_types.py",
    "clients/python/src/headwater_client/events.py",
    "clients/python/src/headwater_client/producer.py",
    "deploy/monitoring/demand.py",
    "deploy/rollout/feedback/counters.py",
    "deploy/rollout/feedback/ledger.py",
    "features/settings.py",
    "stream/conversions.py",
    "trainer/datasets/records.py",
    "trainer/examples/batches.py",
}


def test_no_other_code_decides_by_click_or_purchase() -> None:
    named = re.compile(r"\b(CLICK|PURCHASE|Click|Purchase)\b(?!`)")
    found = {
        str(path.relative_to(ROOT))
        for path in source_files(PRODUCT)
        if named.search(re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL))
    }
    assert found <= ABOUT_TWO_TYPES
    decided = re.compile(r"isinstance\([^)]*\b(Click|Purchase)\b")
    assert not [path for path in source_files(PRODUCT) if decided.search(path.read_text())]
