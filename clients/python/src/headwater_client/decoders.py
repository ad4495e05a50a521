"""Decoders of msgspec, made by one thread at a time.

msgspec keeps what it knows of a struct with its class, and shows it to other threads while it is
still being made. Two threads that meet a struct for the first time at once, one inside another,
can end the process with a segmentation fault (msgspec 0.22). So every decoder of this project is
made here, whole, before anything is decoded with it.
"""

import os
import threading
from typing import Any, TypeVar, overload

import msgspec

AnyKind = TypeVar("AnyKind")

_json: dict[Any, msgspec.json.Decoder[Any]] = {}
_msgpack: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
_making = threading.Lock()
# A child of fork must not find it held by a thread that it does not have.
os.register_at_fork(
    before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release
)


def get_json_decoder(kind: type[AnyKind]) -> msgspec.json.Decoder[AnyKind]:
    """The decoder of a kind from JSON, the same each time."""
    decoder = _json.get(kind)
    if decoder is None:
        with _making:
            decoder = _json.setdefault(kind, msgspec.json.Decoder(kind))
    return decoder


def get_msgpack_decoder(kind: type[AnyKind]) -> msgspec.msgpack.Decoder[AnyKind]:
    """The decoder of a kind from MessagePack, the same each time."""
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _making:
            decoder = _msgpack.setdefault(kind, msgspec.msgpack.Decoder(kind))
    return decoder


@overload
def convert(value: Any, kind: type[AnyKind], *, strict: bool = True) -> AnyKind: ...
@overload
def convert(value: Any, kind: Any, *, strict: bool = True) -> Any: ...
def convert(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """A value of Python's own kinds as one of msgspec's.

    Args:
        strict: texts are not taken for numbers.

    Raises:
        msgspec.ValidationError: it is none.
    """
    get_json_decoder(kind)
    return msgspec.convert(value, kind, strict=strict)
