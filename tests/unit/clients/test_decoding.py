"""Whatever the bytes: a message, or an error that can be written down; with memory in proportion.

Needs the client's package alone: `.ci/run` runs this folder on Python 3.12, too.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
from headwater_client import EVENT_TYPES, EventError, EventProducer, KafkaSettings
from headwater_client.events import (
    MAX_DEPTH,
    Click,
    DeadLetter,
    Item,
    Recommendation,
    decode,
    decode_item,
    encode,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.harness.hostile import LARGE_BYTES, generate_hostile_messages

NOW_MS = 1_764_000_000_000
CLICK = b'{"event_id":"e","user_id":"ann","item_id":"i","timestamp":1764000000000,"x":%s}'
STRUCTS = [*(spec.struct for spec in EVENT_TYPES.values()), Item, Recommendation, DeadLetter]


def refusal(raw: bytes | None, kind: Any = Click) -> str:
    """What is said of a message that is refused; "" of one that is taken."""
    try:
        taken = decode_item(raw)[0] if kind is Item else decode(kind, raw, NOW_MS)
    except EventError as error:
        refused = error
    else:
        encode(taken)
        return ""
    said = str(refused)
    assert said.isprintable()
    assert len(said) < 500
    assert len(refused.field) <= 80
    letter = DeadLetter(raw=b"", topic="t", partition=0, offset=0, reason=said, refused_time=0)
    assert decode(DeadLetter, encode(letter)) == letter
    return said


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_hostile_messages_are_taken_or_refused(seed: int) -> None:
    for message in itertools.islice(generate_hostile_messages(seed, NOW_MS, large_share=0), 5):
        for kind in STRUCTS:
            refusal(message.value, kind)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = sorted({name for kind in STRUCTS for name in kind.__struct_fields__})


@settings(max_examples=100, deadline=None)
@given(
    st.binary()
    | st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON).map(
        lambda document: json.dumps(document).encode()
    )
)
def test_any_bytes_are_taken_or_refused(raw: bytes) -> None:
    for kind in STRUCTS:
        refusal(raw, kind)


@pytest.mark.parametrize("kind", STRUCTS)
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")]
)
def test_no_depth_is_too_much(kind: Any, opening: bytes, closing: bytes, *, closed: bool) -> None:
    for depth in (1, 50, 99, 100, 101, 500, 970, 1_000, 1_490, 5_000, 100_000):
        nested = opening * depth + b"NaN" + (closing * depth if closed else b"")
        for raw in (nested, CLICK % nested):
            # An item with an odd field that nobody knows is an item all the same.
            assert refusal(raw, kind) or (kind is Item and depth < MAX_DEPTH)


def test_the_limit_of_depth_is_the_same_wherever_it_is_asked() -> None:
    """A message that a worker takes the writer of windows takes, too, however deep its stack."""

    def nested_click(depth: int) -> bytes:
        return CLICK % (b"[" * depth + b"]" * depth)

    def from_below(frames: int, depth: int) -> str:
        return from_below(frames - 1, depth) if frames else refusal(nested_click(depth))

    for frames in (0, 300, 600):
        assert from_below(frames, MAX_DEPTH - 1) == ""
        assert "nested deeper than 100 levels" in from_below(frames, MAX_DEPTH)


def test_brackets_within_texts_are_no_depth() -> None:
    text = json.dumps('[{"' * 5_000).encode()
    assert refusal(CLICK % text) == ""
    # Nor do they hide one.
    hidden = b'["]",' * 200 + b"1" + b"]" * 200
    assert "nested deeper" in refusal(CLICK % hidden)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (CLICK % rb'1,"price":"<\ud83dx"', "price"),
        (CLICK % rb'1,"price":{"<\ud83dx":NaN}', "price"),
        (CLICK % rb'1,"context":{"\ud83dx":NaN}', "context.\ufffdx"),
        (CLICK % rb'1,"context":{"\n":NaN}', r"context.\n"),
        (CLICK % rb'1,"session_id":"\ud83dx"', "<message>"),
        (CLICK % b'1,"session_id":"<\xed\xa0\xbd"', "<message>"),
        (CLICK % b'1,"price":"<\xed\xa0\xbd"', "price"),
        (CLICK % rb'{"a":[{"b":Infinity}]}', "x.a[0].b"),
        (CLICK % (b'1,"price":' + b"9" * 5_000), "price"),
        (b'{"event_id":"<' + b"x" * 300 + rb'\ud83d"}', "event_id"),
        (CLICK % rb'"\ud83d"', "<message>"),
    ],
)
def test_what_is_said_can_be_written(raw: bytes, field: str) -> None:
    assert refusal(raw).startswith(f"{field}: ")


def test_a_long_path_is_cut() -> None:
    nested = b'{"%s":' % (b"k" * 1_000) * 90 + b"NaN" + b"}" * 90
    assert refusal(CLICK % nested).endswith(": nan: expected a finite number")


@pytest.mark.parametrize(
    "made",
    [
        # What cost 494 MB, and its kin: all of 1 MB.
        """b'{"a":' + (b'{"%s":' % (b"k" * 1_060)) * 970 + b"NaN" + b"}" * 971""",
        """b'{"a":' + (b'{"%s":' % (b"k" * 10_000)) * 95 + b"NaN" + b"}" * 96""",
        """b'{"x":[' + b"[]," * 350_000 + b"NaN]}" """,
        """b'{"user_id":[' + b'{"a":{}},' * 110_000 + b'1]}'""",
        """b'{"item_id":"i","attributes":[' + b'{},' * 340_000 + b'1]}'""",
        """b'{"item_id":"i","title":"' + b"x" * 1_000_000 + b'"}'""",
        """b"[" * 500_000 + b"]" * 500_000""",
    ],
)
def test_a_message_of_1_mb_costs_memory_in_proportion(made: str) -> None:
    program = (
        "import resource; from headwater_client.events import *\n"
        "from headwater_client.events import decode_item\n"
        "from headwater_client import EventError\n"
        f"raw = {made}\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for read in (lambda: decode(Click, raw), lambda: decode_item(raw)):\n"
        "    try: read()\n"
        "    except EventError: pass\n"
        "print((peak() - before) // 1024)"
    )
    used_mb = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert int(used_mb) < 64


def test_a_message_beyond_what_topics_take_is_refused_by_its_size() -> None:
    assert refusal(CLICK % (b'"' + b"x" * 4_194_304 + b'"')).startswith("<message>: 41943")
    assert refusal(CLICK % (b'"' + b"x" * LARGE_BYTES + b'"')) == ""


def test_the_name_of_a_variant_is_bounded() -> None:
    """It becomes a label of a metric."""
    answer = {"recommendation_id": "r", "user_id": "u", "event_id": "e", "items": []}
    answer |= {"model_version": "1", "event_time": 1, "produced_time": 1, "fallback": False}
    assert refusal(json.dumps(answer | {"variant": "v" * 64}).encode(), Recommendation) == ""
    told = refusal(json.dumps(answer | {"variant": "v" * 65}).encode(), Recommendation)
    assert told.startswith("variant: ")


LAMP = {"item_id": "lamp", "available": False}


@pytest.mark.parametrize(
    ("said", "taken", "fitted"),
    [
        ({"title": "x" * 1_025}, {"title": "x" * 1_024}, "title"),
        ({"description": "x" * 70_000}, {"description": "x" * 65_536}, "description"),
        ({"brand": "é" * 257}, {"brand": "é" * 256}, "brand"),
        (
            {"category": [str(n) for n in range(17)]},
            {"category": [*map(str, range(16))]},
            "category",
        ),
        ({"category": ["a", "", None, 7]}, {"category": ["a"]}, "category"),
        ({"category": ["x" * 257]}, {"category": ["x" * 256]}, "category"),
        ({"category": "lamps"}, {"category": ["lamps"]}, "category"),
        ({"price": "12.00"}, {"price": 12.0}, "price"),
        ({"price": -1}, {}, "price"),
        ({"price": float("inf")}, {}, "price"),
        ({"price": True}, {}, "price"),
        ({"attributes": {"size": ["S"], "n": 1}}, {"attributes": {"n": 1}}, "attributes"),
        ({"attributes": {"w": float("nan"), "n": 1}}, {"attributes": {"n": 1}}, "attributes"),
        ({"attributes": []}, {}, "attributes"),
        ({"title": 7}, {}, "title"),
        ({"title": "\ud83d <p>"}, {"title": "\ufffd <p>"}, ""),
        ({"attributes": {"\ud83d": "\ud83d"}}, {"attributes": {"\ufffd": "\ufffd"}}, ""),
        ({"available": "false"}, {}, "available"),
        # A number that stands for the same is the same.
        ({"available": 0}, {}, ""),
        # Null says nothing.
        (
            dict.fromkeys(("title", "description", "category", "brand", "price", "attributes")),
            {},
            "",
        ),
    ],
)
def test_an_item_goes_off_sale_however_it_is_described(
    said: dict[str, Any], taken: dict[str, Any], fitted: str
) -> None:
    item, fields = decode_item(json.dumps(LAMP | said).encode())
    assert item == Item(**{**LAMP, **taken})
    assert fields == ((fitted,) if fitted else ())


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"available": "maybe"}, "available"),
        ({"available": []}, "available"),
        ({"available": 2}, "available"),
        ({"item_id": 7}, "item_id"),
        ({"item_id": ""}, "item_id"),
        ({"item_id": "\ud83d"}, "<message>"),
        ({"item_id": None, "title": "x" * 2_000}, "item_id"),
    ],
)
def test_which_item_it_is_and_whether_it_is_available_must_be_right(
    said: dict[str, Any], field: str
) -> None:
    assert refusal(json.dumps(LAMP | said).encode(), Item).startswith(f"{field}: ")


def test_an_app_is_told_of_an_item_that_would_be_cut() -> None:
    with EventProducer(KafkaSettings("127.0.0.1:1"), {"log_level": "0"}) as events:
        with pytest.raises(EventError, match="title"):
            events.item("lamp", title="x" * 1_025)
        with pytest.raises(EventError, match="brand: None"):
            events.item("lamp", brand=None)
