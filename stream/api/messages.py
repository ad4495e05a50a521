"""Messages of gRPC as the documents that HTTP has, and back."""

import math
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from headwater_client import EventError
from msgspec import Struct

from stream.api import headwater_pb2

_VALUE, _OBJECT = "google.protobuf.Value", "google.protobuf.Struct"


def message_class(name: str) -> type[Message]:
    """The class of a message, by its name in `headwater.proto`."""
    found: type[Message] = (
        Empty
        if name == Empty.DESCRIPTOR.full_name
        else GetMessageClass(headwater_pb2.DESCRIPTOR.message_types_by_name[name])
    )
    return found


def read_message(kind: type[Message], raw: bytes) -> dict[str, Any]:
    """The document of a message: what is not set is not in it.

    Raises:
        EventError: it is no message of this kind, or has a number that JSON has not.
    """
    try:
        message = kind.FromString(raw)
    except DecodeError as error:
        raise EventError("<message>", raw, f"is no {kind.DESCRIPTOR.name}: {error}") from error
    return _read_fields(message, "")


def write_message(kind: type[Message], answer: Struct) -> Message:
    """An answer as a message."""
    return json_format.ParseDict(msgspec.to_builtins(answer), kind())


def _read_fields(message: Message, place: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for field, value in message.ListFields():
        where = f"{place}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {name: _read(value[name], where) for name in value}
        elif field.is_repeated:
            document[field.name] = [_read(one, f"{where}[{at}]") for at, one in enumerate(value)]
        else:
            document[field.name] = _read(value, where)
    return document


def _read(value: Any, where: str) -> Any:
    """One value; a whole number of a `Value`, which has floats only, is an integer again."""
    if isinstance(value, float) and not math.isfinite(value):
        raise EventError(where, value, "expected a finite number")
    if not isinstance(value, Message):
        return value
    if value.DESCRIPTOR.full_name == _VALUE:
        kind = value.WhichOneof("kind")
        held: Any = None if kind in (None, "null_value") else getattr(value, kind)
        if kind == "list_value":
            return [_read(one, f"{where}[{at}]") for at, one in enumerate(held.values)]
        held = _read(held, where)
        return int(held) if isinstance(held, float) and held.is_integer() else held
    if value.DESCRIPTOR.full_name == _OBJECT:
        return {name: _read(each, f"{where}.{name}") for name, each in value.fields.items()}
    return _read_fields(value, f"{where}.")
