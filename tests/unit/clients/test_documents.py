"""What others wrote is read, or refused by one error, whatever a parser would raise."""

import pytest
from headwater_client.documents import (
    MAX_DEPTH,
    DocumentError,
    read_json,
    read_json_lines,
    read_toml,
)


def test_what_is_right_is_read() -> None:
    assert read_json(b'{"a":[1]}', dict[str, list[int]]) == {"a": [1]}
    assert read_json('"é"', str) == "é"
    assert [bytes(each) for each in read_json_lines(b'{"a":1}\n\n[2]\n')] == [b'{"a":1}', b"[2]"]
    assert read_toml("a = [1]") == {"a": [1]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":"\xed\xa0\x80"}',
        "\ud800",
        b"9" * 5_000 + b"x",
        b'{"a":' * 5_000,
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_is_no_json_is_refused(raw: bytes | str) -> None:
    with pytest.raises(DocumentError):
        read_json(raw, dict)


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'[1]\n{"a":', b'{"a":' * 5_000, b"[" * 100_000])
def test_what_is_no_json_lines_is_refused(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        read_json_lines(raw)


def test_the_kind_is_checked() -> None:
    with pytest.raises(DocumentError, match="Expected `int`"):
        read_json(b'"a"', int)


@pytest.mark.parametrize(
    "text",
    ["a", "a = 2024-99-99", "a = " + "9" * 5_000, "a = " + "[" * 5_000, "a = {b = " * 5_000],
)
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        read_toml(text)
