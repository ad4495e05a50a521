"""Hostile messages: what anyone may write to a topic, drawn at random from a seed.

The tests of the decoders read them, and soaks (`bench.soak`) mix them with good events. None names
an id that begins with `GOOD`: what was made of good events can so be told apart.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from headwater_client import EVENT_TYPES, DeadLetter, Item
from headwater_client.contract import PlacementRules
from headwater_client.events import PersonAttributes, Recommendation
from headwater_client.topics import (
    DEAD_LETTERS,
    ITEMS,
    PEOPLE,
    PLACEMENTS,
    RECOMMENDATIONS,
    ROLLOUT_COMMANDS,
    ROLLOUTS,
    SERVED,
)

GOOD = "good"
_COMPACTED = (ITEMS, PEOPLE, PLACEMENTS)
LARGE_BYTES = 900_000
# Python's parsers stop between 1,000 and 1,500 levels, each version at another.
_DEPTHS = (1, 60, 99, 100, 101, 102, 200, 500, 970, 990, 1_000, 1_100, 1_490)
_LARGE_DEPTHS = (3_000, 20_000, 100_000)
_SURROGATE = "\\ud83d"
# As JSON texts: Python's writer would refuse many of them.
_VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "-0", "1e999", "-1e999", "1e-999", "NaN"),
    *("Infinity", "-Infinity", "[]", "{}", '""', '"a"', '"false"', '"12.00"', "[NaN]", "[[[]]]"),
    *(f'"<{_SURROGATE}"', f'"<p>{_SURROGATE}{"x" * 1_100}"', f'{{"{_SURROGATE}":NaN}}'),
    *(f'"{"x" * 256}"', f'"{"x" * 257}"', f'"{"é" * 1_025}"', "9" * 19, "9" * 400, "9" * 4_400),
    *('"\uffff\u202e\u0007"', '"<script>`$.a`"', '{"a.b`c":[]}', '["a","",null,7]', '"\\u0000"'),
    *('{"a":{"b":1}}', '{"a":[1]}', str(2**63), str(-(2**63) - 1), str(2**64), "99999999999999"),
)
_EVENT_FIELDS = (*EVENT_TYPES["click"].struct.__struct_fields__, "unknown", "<\\udc00", "a`b.$")
_FIELDS = {
    PEOPLE: (*PersonAttributes.__struct_fields__, "<\\udc00"),
    PLACEMENTS: (*PlacementRules.__struct_fields__, "<\\udc00"),
    ITEMS: (*Item.__struct_fields__, "in_stock", "<\\udc00"),
    RECOMMENDATIONS: Recommendation.__struct_fields__,
    SERVED: Recommendation.__struct_fields__,
    ROLLOUTS: (
        *("model", "versions", "state", "time", "rollout_id", "sequence", "rollout", "actor"),
        *("reason", "inputs", "command_id", "action", "accepted", "signature", "version"),
    ),
    DEAD_LETTERS: DeadLetter.__struct_fields__,
}
_FIELDS[ROLLOUT_COMMANDS] = _FIELDS[ROLLOUTS]


class HostileMessage(NamedTuple):
    """A message as it is handed to a producer."""

    topic: str
    key: bytes | None
    value: bytes | None


def generate_hostile_messages(
    seed: int, now_ms: int, model: str = "temporal_llm", large_share: float = 0.001
) -> Iterator[HostileMessage]:
    """Hostile messages over all topics, without end; the same for the same arguments.

    Args:
        now_ms: about when they are sent.
        model: whose rollouts are spoken of.
        large_share: of them so many are large, up to nearly 1 MB.
    """
    chance = random.Random(seed)
    of_rollouts = (ROLLOUTS, ROLLOUT_COMMANDS)
    served = (RECOMMENDATIONS, SERVED)
    topics = (*EVENT_TYPES.topics, *_COMPACTED, *served, *of_rollouts, DEAD_LETTERS)
    while True:
        topic = chance.choice(topics)
        make = chance.choice(_LARGE if chance.random() < large_share else _SMALL)
        fields = _fields(topic, model, now_ms, chance)
        yield HostileMessage(topic, _key(topic, model, fields, chance), make(fields, topic, chance))


def _fields(topic: str, model: str, now_ms: int, chance: random.Random) -> dict[str, str]:
    """The fields of a message that is right, as JSON texts by name."""
    name = f"h{chance.randrange(1_000)}"
    person: dict[str, Any] = {"user_id": name, "event_id": f"{name}-{chance.randrange(10**9)}"}
    match topic:
        case "items":
            fields = {"item_id": name, "title": name, "available": chance.random() < 0.5}
        case "people":
            fields = {"user_id": name, "attributes": {"city": name, "age": 41}}
        case "placements":
            # Nobody asks for a placement of such a name.
            fields = {"filter": "item.price < 12", "limit": 5, "fallback": "nothing"}
        case "recommendations":
            fields = person | {"recommendation_id": name, "items": [], "model_version": "1"}
            fields |= {"variant": f"v{name}", "event_time": now_ms, "produced_time": now_ms}
            fields |= {"fallback": False, "rollout_id": f"{name}-7"}
        case "rollouts" | "rollout-commands":
            # No version can have number 0: nothing of this is ever followed.
            routed = {"version": 0, "variant": "stable", "share": 1, "address": "memory://none"}
            fields = {"model": model, "versions": [routed], "time": now_ms, "sequence": 1 << 40}
            fields |= {"rollout_id": name, "command_id": name, "action": "promote", "actor": name}
        case "dead-letters":
            fields = {"raw": "AAAA", "topic": "clicks", "partition": 0, "offset": 1, "reason": name}
        case _:
            fields = person | {"item_id": name, "timestamp": now_ms - chance.randrange(10**7)}
    return {field: json.dumps(value) for field, value in fields.items()}


def _key(topic: str, model: str, fields: dict[str, str], chance: random.Random) -> bytes | None:
    if topic in (ROLLOUTS, ROLLOUT_COMMANDS):
        kinds = (
            "",
            "/history/x/1",
            "/command/c",
            "/answer/c",
            "/later/1",
            "/",
            "/history",
            "/lease",
        )
        return f"{model}{chance.choice(kinds)}".encode()
    own: bytes = json.loads(
        fields.get("item_id" if topic == ITEMS else "user_id", '"h-9"')
    ).encode()
    odd = [None, b"", b"\xff\xfe", b"h" * 300, b"h\0h", own]
    # A compacted topic takes no message without a key.
    odd = odd[1:] if topic in _COMPACTED else odd
    return own if chance.random() < 0.8 else chance.choice(odd)


def _write(fields: dict[str, str]) -> bytes:
    text = ",".join(f'"{name}":{value}' for name, value in fields.items())
    return f"{{{text}}}".encode()


def _put_odd_values(fields: dict[str, str], topic: str, chance: random.Random) -> bytes:
    names = _FIELDS.get(topic, _EVENT_FIELDS)
    changed = chance.sample(names, chance.randint(1, 3))
    return _write(fields | {name: chance.choice(_VALUES) for name in changed})


def _drop_a_field(fields: dict[str, str], _: str, chance: random.Random) -> bytes:
    left_out = chance.choice(list(fields))
    return _write({name: value for name, value in fields.items() if name != left_out})


def _nest_too_deep(fields: dict[str, str], _: str, chance: random.Random) -> bytes:
    return _nest(fields, chance.choice(_DEPTHS), chance)


def _nest_far_too_deep(fields: dict[str, str], _: str, chance: random.Random) -> bytes:
    return _nest(fields, chance.choice(_LARGE_DEPTHS), chance)


def _nest(fields: dict[str, str], depth: int, chance: random.Random) -> bytes:
    opened, closed, core = chance.choice(
        (("[", "]", ""), ('{"a":', "}", "NaN"), ('{"a":', "}", "1"), ('[{"a":', "}]", "[]"))
    )
    nested = opened * depth + core + chance.choice((closed * depth, ""))
    place = chance.choice(("x", "context", "attributes", "items", "inputs", "title"))
    return _write(fields | {place: nested}) if chance.random() < 0.9 else nested.encode()


def _damage(fields: dict[str, str], _: str, chance: random.Random) -> bytes | None:
    raw = _write(fields)
    cut, at = chance.randrange(len(raw)), chance.randrange(len(raw))
    flipped = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
    utf16, bom = raw.decode().encode("utf-16"), b"\xef\xbb\xbf" + raw
    half = raw.replace(b":", b":\xed\xa0\xbd", 1)
    whole = (None, b"", utf16, bom, half, raw + raw, b"[" + raw + b"]")
    return chance.choice((*whole, raw[:cut], flipped, chance.randbytes(cut)))


def _make_long_keys(fields: dict[str, str], _: str, chance: random.Random) -> bytes:
    depth = chance.choice((90, 970))
    name = "k" * (LARGE_BYTES // depth - 10)
    return _write(fields | {"context": f'{{"{name}":' * depth + "NaN" + "}" * depth})


def _make_many_values(fields: dict[str, str], _: str, chance: random.Random) -> bytes:
    value = chance.choice(("[]", "{}", "1.5", '""', "NaN", '{"a":{}}'))
    many = ",".join([value] * (LARGE_BYTES // (len(value) + 1)))
    return _write(fields | {chance.choice(("x", "context", "category", "items")): f"[{many}]"})


def _make_one_text(fields: dict[str, str], topic: str, chance: random.Random) -> bytes:
    text = chance.choice(("x", "\\\\", "\\u00e9", _SURROGATE, "[", "é"))
    name = chance.choice(_FIELDS.get(topic, _EVENT_FIELDS))
    return _write(fields | {name: f'"{text * (LARGE_BYTES // len(text.encode()))}"'})


_Make = Callable[[dict[str, str], str, random.Random], bytes | None]
_SMALL: tuple[_Make, ...] = (_put_odd_values, _drop_a_field, _nest_too_deep, _damage)
_LARGE: tuple[_Make, ...] = (
    _make_long_keys,
    _make_many_values,
    _make_one_text,
    _nest_far_too_deep,
)
