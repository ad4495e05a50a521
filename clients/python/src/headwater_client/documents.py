"""JSON and TOML that others wrote, or that lay where others can write: read, or refused.

The parsers themselves raise many things, by what is in a text and how deep the caller's stack is;
from here one error comes.
"""

import re
import tomllib
from typing import Any, TypeVar

import msgspec

from headwater_client.decoders import get_json_decoder

MAX_DEPTH = 100
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
AnyKind = TypeVar("AnyKind")


class DocumentError(ValueError):
    """A text is not what it has to be; says why, and not where it is: its reader knows."""


def read_json(raw: bytes | str, kind: type[AnyKind]) -> AnyKind:
    """What a JSON text holds.

    Args:
        raw: at most `MAX_DEPTH` levels deep.
        kind: what it has to be, for msgspec.

    Raises:
        DocumentError: it is something else, or no JSON.
    """
    try:
        encoded = raw.encode() if isinstance(raw, str) else raw
        _check_depth(encoded)
        return get_json_decoder(kind).decode(encoded)
    except (ValueError, RecursionError) as error:
        raise DocumentError(str(error)) from error


def read_json_lines(raw: bytes) -> list[msgspec.Raw]:
    """The values of JSON lines, as they are written.

    Raises:
        DocumentError: a line is no JSON, or all together nest deeper than `MAX_DEPTH`.
    """
    try:
        _check_depth(raw)
        return get_json_decoder(msgspec.Raw).decode_lines(raw)
    except (ValueError, RecursionError) as error:
        raise DocumentError(str(error)) from error


def read_toml(text: str) -> dict[str, Any]:
    """What a TOML text holds.

    Raises:
        DocumentError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise DocumentError("is nested too deep") from error
    except ValueError as error:
        raise DocumentError(str(error)) from error


def _check_depth(raw: bytes) -> None:
    if is_too_deep(raw):
        raise DocumentError(f"is nested deeper than {MAX_DEPTH} levels")


def is_too_deep(raw: bytes) -> bool:
    """Whether brackets, those within texts left out, are nested deeper than `MAX_DEPTH`."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _TEXTS.sub(b"", raw).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        # Those that hold nothing go, and so a level.
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    # What is left open at the end of a message that was cut is no level.
    return b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH
