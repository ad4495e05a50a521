"""Threads that decode a kind for the first time at once get it decoded: msgspec's own crash."""

import os
import subprocess
import sys
import threading

import msgspec
import pytest
from headwater_client.decoders import convert, get_json_decoder, get_msgpack_decoder

# msgspec by itself ends with a segmentation fault among the first hundred kinds.
_RACE = """
import sys, threading
import msgspec
from headwater_client.decoders import convert, get_json_decoder, get_msgpack_decoder

def make(number):
    inner = [msgspec.defstruct(f"I{number}_{n}", [("a", "list[int]", [])]) for n in range(20)]
    return msgspec.defstruct(f"O{number}", [(f"f{n}", kind) for n, kind in enumerate(inner)])

value = {f"f{n}": {"a": [n]} for n in range(20)}
text, packed = msgspec.json.encode(value), msgspec.msgpack.encode(value)
ways = [
    lambda kind: get_json_decoder(kind).decode(text),
    lambda kind: get_msgpack_decoder(kind).decode(packed),
    lambda kind: convert(value, kind),
]
sys.setswitchinterval(1e-5)
decoded = []
for number in range(300):
    kind, together = make(number), threading.Barrier(len(ways))
    def read(way):
        together.wait()
        decoded.append(way(kind).f19.a == [19])
    threads = [threading.Thread(target=read, args=(way,)) for way in ways]
    [each.start() for each in threads]
    [each.join() for each in threads]
assert len(decoded) == 900 and all(decoded), decoded
"""


class Point(msgspec.Struct):
    x: int


def test_threads_decode_a_kind_for_the_first_time_at_once() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _RACE],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_each_way_decodes() -> None:
    assert get_json_decoder(Point).decode(b'{"x":1}') == Point(1)
    assert get_json_decoder(Point) is get_json_decoder(Point)
    assert get_msgpack_decoder(Point).decode(msgspec.msgpack.encode(Point(2))) == Point(2)
    assert convert({"x": "3"}, Point, strict=False) == Point(3)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.x"):
        convert({"x": "3"}, Point)


def test_a_child_of_fork_makes_decoders() -> None:
    stop = threading.Event()

    def make_many() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            get_json_decoder(msgspec.defstruct(f"Many{number}", [("x", int)]))

    making = threading.Thread(target=make_many)
    making.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                get_json_decoder(msgspec.defstruct("Child", [("x", int)]))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        making.join()
