"""Dead letters are told apart by their fault, shown safely, and corrected by rules."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from headwater_client import DeadLetter, EventError, decode
from headwater_client.admin import quality
from headwater_client.events import Click, Item

from deploy.console import dead_letters
from deploy.console.dead_letters import (
    MessageChecker,
    apply_rules,
    dump_hex,
    find_editable,
    show_text,
    suggest_rules,
)
from deploy.console.refusals import HIDDEN, find_remedy, group_of, split_reason
from features.events import EventReader
from features.settings import EventSettings

NOW_MS = 1_764_000_000_000
CHECKER = MessageChecker(EventReader(EventSettings(), clock=lambda: NOW_MS), lambda: NOW_MS)
GOOD = {"event_id": "e1", "user_id": "ann", "item_id": "i1", "timestamp": NOW_MS}


def letter_of(raw: bytes, reason: str = "", topic: str = "clicks", **fields: Any) -> DeadLetter:
    told = {"partition": 0, "offset": 7, "refused_time": NOW_MS} | fields
    return DeadLetter(raw=raw, topic=topic, reason=reason, **told)


def make_letter(document: dict[str, Any], topic: str = "clicks") -> DeadLetter:
    """The letter that a worker makes of a message."""
    raw = json.dumps(document).encode()
    with pytest.raises(EventError) as caught:
        EventReader(EventSettings(), clock=lambda: NOW_MS).read(topic, raw, NOW_MS)
    return letter_of(raw, str(caught.value), topic)


@pytest.mark.parametrize(
    ("reason", "field", "value", "expected"),
    [
        ("user_id: <missing>: is required", "user_id", "<missing>", "is required"),
        ("price: -1: Expected `float` >= 0.0", "price", "-1", "Expected `float` >= 0.0"),
        ("a: 'it: is \\': so': must not", "a", "'it: is \\': so'", "must not"),
        ("a: b'\\xff: x': not JSON", "a", "b'\\xff: x'", "not JSON"),
        # Cut at 80 characters, so that the quote does not close.
        (f"a: '{'x' * 79}: too long", "a", f"'{'x' * 79}", "too long"),
        ("whatever", "<message>", "", "whatever"),
        ("a: b", "a", "", "b"),
    ],
)
def test_a_reason_has_its_parts_back(reason: str, field: str, value: str, expected: str) -> None:
    assert split_reason(reason) == (field, value, expected)


def test_letters_of_one_fault_are_together_whoever_they_name() -> None:
    late = [make_letter({**GOOD, "timestamp": NOW_MS + 10_000_000 + extra}) for extra in (0, 5)]
    nobody = make_letter({**GOOD, "user_id": "null"})
    keys = [
        letter_of(b"", f"<key>: 'x': expected the user_id, '{name}'", "people")
        for name in ("ann", "bob")
    ]
    assert group_of(late[0]) == group_of(late[1]) != group_of(nobody)
    assert group_of(keys[0]).name == group_of(keys[1]).name
    assert "ann" not in group_of(keys[0]).expected
    assert group_of(late[0]).name != group_of(msgspec.structs.replace(late[0], topic="plays")).name


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("user_id: <missing>: is required", ("user_id", "is required")),
        ("price: -1: Expected `float` >= 0.0", ("price", "Expected `float` >= N.N")),
        ("user_id: 5: Expected `str`, got `int`", ("user_id", "Expected `str`, got `int`")),
        (
            "<key>: 'ann': expected the user_id, 'o\\'ann \"b\" c'",
            ("<key>", "expected the user_id"),
        ),
        # Whatever is quoted of a message, and however its end was cut: none of it is told.
        ("user_id: 'ann: bob: is required", ("user_id", "is required")),
        ("user_id: {'x: ann': 1}: what nobody has foreseen of ann", ("user_id", HIDDEN)),
        ("ann.b: nan: expected a finite number", (HIDDEN, "expected a finite number")),
        ("ann is all that it says", ("<message>", HIDDEN)),
    ],
)
def test_where_people_are_masked_a_reason_is_told_in_words_of_the_contract(
    reason: str, told: tuple[str, str]
) -> None:
    hidden = group_of(letter_of(b"", reason)).hide()
    assert (hidden.field, hidden.expected) == told


def test_each_fault_has_a_remedy() -> None:
    missing = {name: value for name, value in GOOD.items() if name != "user_id"}
    assert "rename" in find_remedy(group_of(make_letter(missing)))
    assert "1000" in find_remedy(group_of(make_letter({**GOOD, "timestamp": NOW_MS // 1000})))
    assert "retype" in find_remedy(group_of(make_letter({**GOOD, "user_id": 12})))
    assert "clock" in find_remedy(group_of(make_letter({**GOOD, "timestamp": NOW_MS * 2})))
    poison = letter_of(b"x", "<message>: b'x': 2 processes ended over it: put aside")
    assert "died" in find_remedy(group_of(poison))
    assert find_remedy(group_of(letter_of(b"", "a: b: quite new")))


def test_bytes_are_shown_as_they_are_and_never_obeyed() -> None:
    raw = b"\xff\x00<script>\x1b[2J" + bytes(range(256))
    lines = dump_hex(raw).splitlines()
    assert lines[0].startswith("00000000  ff 00 3c 73 63 72 69 70  74 3e 1b 5b 32 4a 00 01")
    assert lines[0].endswith("|..<script>.[2J..|")
    assert len({len(line) for line in lines[:-1]}) == 1
    assert "\x1b" not in show_text(raw)
    assert dump_hex(b"") == ""
    assert len(dump_hex(b"x" * 100_000).splitlines()) == dead_letters.HEX_BYTES // 16


def test_text_is_cut_between_characters() -> None:
    assert show_text("é".encode() * 10, 4) == "éééé…"
    # 4 bytes a character: the cut goes through none, the one after it is not told as broken.
    assert show_text("€".encode() * 5, 3) == "€€€…"
    assert show_text(b"ab", 2) == "ab"
    assert show_text(b"\xff\xff", 4) == "\ufffd\ufffd"


def test_what_cannot_be_edited_says_why() -> None:
    assert find_editable(letter_of(b"{}")) == ("{}", "")
    assert "UTF-8 from byte 1" in find_editable(letter_of(b"a\xff"))[1]
    assert "tombstone" in find_editable(letter_of(b""))[1]
    assert "2 of 9 bytes" in find_editable(letter_of(b"ab", size_bytes=9))[1]
    assert "bytes" in find_editable(letter_of(b" " * (quality.MAX_EDITED_CHARS + 1)))[1]


RULES: list[tuple[dict[str, Any], quality.CorrectionRule, dict[str, Any]]] = [
    ({"userId": "a"}, quality.RenameField("userId", "user_id"), {"user_id": "a"}),
    ({"u": "a", "user_id": "b"}, quality.RenameField("u", "user_id"), {"u": "a", "user_id": "b"}),
    ({"c": {"d": 1}}, quality.RenameField("c.d", "e.f"), {"c": {}, "e": {"f": 1}}),
    ({}, quality.RenameField("a", "b.c"), {}),
    ({"a": 1}, quality.SetField("b.c", msgspec.Raw(b'"x"')), {"a": 1, "b": {"c": "x"}}),
    ({"a": 1}, quality.SetField("a", msgspec.Raw(b"2"), if_missing=True), {"a": 1}),
    ({"a": 1, "b": 2}, quality.RemoveField("a"), {"b": 2}),
    ({"a": 1}, quality.RemoveField("x.y"), {"a": 1}),
    ({"t": 1_764_000_000}, quality.ScaleField("t", 1000), {"t": NOW_MS}),
    ({"t": 1_764_000_000.0004}, quality.ScaleField("t", 1000), {"t": NOW_MS}),
    ({"p": 1999}, quality.ScaleField("p", 0.01), {"p": 19.99}),
    ({"i": 12.0}, quality.RetypeField("i", "text"), {"i": "12"}),
    ({"i": 12.5}, quality.RetypeField("i", "text"), {"i": "12.5"}),
    ({"i": True}, quality.RetypeField("i", "text"), {"i": True}),
    ({"p": " 12.5 "}, quality.RetypeField("p", "number"), {"p": 12.5}),
    (
        {"t": "2025-11-24T16:00:00Z"},
        quality.ReadTimeField("t"),
        {"t": NOW_MS},
    ),
    (
        {"t": "2025-11-24 17:00"},
        quality.ReadTimeField("t", zone="Europe/Berlin"),
        {"t": NOW_MS},
    ),
    ({}, quality.ArrivalTimeField("timestamp"), {"timestamp": NOW_MS}),
    ({"timestamp": 5}, quality.ArrivalTimeField("timestamp"), {"timestamp": 5}),
]


@pytest.mark.parametrize(("before", "rule", "after"), RULES)
def test_a_rule_does_what_it_says(
    before: dict[str, Any], rule: quality.CorrectionRule, after: dict[str, Any]
) -> None:
    letter = letter_of(b"{}")
    assert json.loads(apply_rules(letter, json.dumps(before), [rule])) == after


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"t": "now"}', quality.ScaleField("t", 1000)),
        ('{"t": "yesterday"}', quality.ReadTimeField("t")),
        ('{"t": "2025-11-24 17:00"}', quality.ReadTimeField("t")),
        ('{"t": "2025-11-24 17:00"}', quality.ReadTimeField("t", zone="Nowhere/At_All")),
        ('{"p": "a lot"}', quality.RetypeField("p", "number")),
        ('{"p": "NaN"}', quality.RetypeField("p", "number")),
        ('{"p": "true"}', quality.RetypeField("p", "number")),
        ("[1]", quality.RemoveField("a")),
        ("{", quality.RemoveField("a")),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_by_name(
    text: str, rule: quality.CorrectionRule
) -> None:
    with pytest.raises(EventError) as caught:
        apply_rules(letter_of(b"{}"), text, [rule])
    assert caught.value.field in (getattr(rule, "field", ""), "<message>")


def test_what_is_sent_again_was_read_as_its_topic_is_read() -> None:
    checked = CHECKER.check(letter_of(b"{}"), json.dumps(GOOD))
    assert checked.message.topic == "clicks"
    assert checked.message.key == "ann"
    assert checked.event_id == "e1"
    with pytest.raises(EventError, match="stands for nobody"):
        CHECKER.check(letter_of(b"{}"), json.dumps({**GOOD, "user_id": "None"}))
    item = CHECKER.check(letter_of(b"", topic="items"), '{"item_id": "i1", "title": "<b>"}')
    assert decode(Item, item.message.value).title == "<b>"
    with pytest.raises(EventError, match="merge or erasure"):
        CHECKER.check(letter_of(b"", topic="identities"), "{}")
    with pytest.raises(EventError, match="no topic of events"):
        CHECKER.check(letter_of(b"", topic="gone"), json.dumps(GOOD))
    with pytest.raises(EventError):
        CHECKER.check(letter_of(b"", topic="items"), '{"item_id": "i1", "price": -1}')


def test_an_event_without_an_id_gets_one_that_is_its_letters_own() -> None:
    text = json.dumps({name: value for name, value in GOOD.items() if name != "event_id"})
    letter = letter_of(text.encode())
    first, again = CHECKER.check(letter, text), CHECKER.check(letter, text)
    assert first == again
    assert decode(Click, first.message.value).event_id == first.event_id
    for other in (
        msgspec.structs.replace(letter, offset=8),
        msgspec.structs.replace(letter, raw=b"x"),
        msgspec.structs.replace(letter, refused_time=1),
    ):
        assert CHECKER.check(other, text).event_id != first.event_id
    null = CHECKER.check(letter, json.dumps({**GOOD, "event_id": None}))
    assert null.event_id == first.event_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_id": "e1", "userId": "ann", "item_id": "i1", "timestamp": NOW_MS},
        {"event_id": "e1", "user": "ann", "sku": "i1", "ts": NOW_MS // 1000},
        {"eventId": "e1", "user_id": 12.0, "product_id": 7, "timestamp": "2025-11-24T16:00:00Z"},
        {"event_id": "e1", "user_id": "ann", "item_id": "i1", "timestamp": NOW_MS * 1000},
        {"event_id": "e1", "user_id": "ann", "item_id": "i1", "timestamp": f"{NOW_MS}"},
        {"event_id": "e1", "user_id": "ann", "item_id": "i1"},
        {**GOOD, "price": "9.90"},
    ],
)
def test_what_can_be_told_from_a_message_is_suggested(wrong: dict[str, Any]) -> None:
    letter = make_letter(wrong)
    rules, is_taken = suggest_rules(letter, json.dumps(wrong), CHECKER)
    assert is_taken, rules
    event = CHECKER.check(letter, apply_rules(letter, json.dumps(wrong), rules))
    assert event.event_id == "e1"


@pytest.mark.parametrize(
    "wrong", [{**GOOD, "user_id": "null"}, {"event_id": "e1"}, {**GOOD, "price": -1}]
)
def test_what_only_its_sender_knows_is_not_made_up(wrong: dict[str, Any]) -> None:
    assert not suggest_rules(make_letter(wrong), json.dumps(wrong), CHECKER)[1]
