"""Gorse's dumps, as its `/api/dump` writes them: messages of Protocol Buffers, each with its size.

    -1, size, User, size, User, ..., -2, size, Item, ..., -3, size, Feedback, ..., 0

A number is an int64, its lowest byte first. Fields that this does not know are passed over: of
feedback `Value`, which JSON lines have.
"""

from collections.abc import Iterator
from struct import Struct, error
from typing import IO, Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import DecodeError
from headwater_client import encode
from headwater_client.errors import DataError

from stream.api.compat.values import write_time

_NUMBER = Struct("<q")
_USERS, _ITEMS, _FEEDBACK, _END = -1, -2, -3, 0
_PACKAGE = "gorse_dump"
_MAX_BYTES = 64 * 1024 * 1024
_KINDS = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _BOOL = _KINDS.TYPE_STRING, _KINDS.TYPE_BYTES, _KINDS.TYPE_BOOL
_TIME, _STRINGS = "time", "strings"
# By the numbers of Gorse's protocol.
_MESSAGES = {
    _USERS: {
        "UserId": (1, _STRING),
        "Labels": (2, _BYTES),
        "Comment": (3, _STRING),
        "Subscribe": (4, _STRINGS),
    },
    _ITEMS: {
        "ItemId": (2, _STRING),
        "IsHidden": (3, _BOOL),
        "Categories": (4, _STRINGS),
        "Timestamp": (5, _TIME),
        "Labels": (6, _BYTES),
        "Comment": (7, _STRING),
    },
    _FEEDBACK: {
        "FeedbackType": (2, _STRING),
        "UserId": (3, _STRING),
        "ItemId": (4, _STRING),
        "Timestamp": (5, _TIME),
        "Comment": (6, _STRING),
    },
}


def is_dump(head: bytes) -> bool:
    """Whether a file that begins so is a dump."""
    return head == _NUMBER.pack(_USERS)


def read_dump(opened: IO[bytes], name: str) -> Iterator[bytes]:
    """The rows of a dump, as JSON.

    Raises:
        DataError: it ends early, or is none.
    """
    classes = _make_classes()
    kind = _END
    while True:
        number = _read_number(opened, name)
        if number == _END:
            return
        if number < 0:
            if number not in classes:
                raise DataError(f"{name}: byte {opened.tell() - 8}: {number}: no part of a dump")
            kind = number
            continue
        if number > _MAX_BYTES or kind == _END:
            raise DataError(f"{name}: byte {opened.tell() - 8}: a row of {number} bytes")
        raw = opened.read(number)
        if len(raw) < number:
            raise DataError(f"{name}: byte {opened.tell()}: it ends within a row: dump it again")
        try:
            message = classes[kind].FromString(raw)
        except DecodeError as broken:
            raise DataError(f"{name}: byte {opened.tell() - number}: {broken}") from broken
        yield encode(_describe(message, kind))


def _read_number(opened: IO[bytes], name: str) -> int:
    try:
        number: int = _NUMBER.unpack(opened.read(_NUMBER.size))[0]
    except error:
        raise DataError(
            f"{name}: byte {opened.tell()}: it ends before its end is marked: dump it again"
        ) from None
    return number


def _make_classes() -> dict[int, Any]:
    """A class for the messages of each part."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE)
    file.syntax = "proto3"
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for kind, fields in _MESSAGES.items():
        message = file.message_type.add(name=f"Part{-kind}")
        for name, (number, type_) in fields.items():
            field = message.field.add(name=name, number=number, label=_KINDS.LABEL_OPTIONAL)
            if type_ == _TIME:
                field.type = _KINDS.TYPE_MESSAGE
                field.type_name = ".google.protobuf.Timestamp"
            elif type_ == _STRINGS:
                field.type, field.label = _STRING, _KINDS.LABEL_REPEATED
            else:
                field.type = type_
    pool.AddSerializedFile(file.SerializeToString())
    found = {kind: pool.FindMessageTypeByName(f"{_PACKAGE}.Part{-kind}") for kind in _MESSAGES}
    return {kind: message_factory.GetMessageClass(each) for kind, each in found.items()}


def _describe(message: Any, kind: int) -> dict[str, Any]:
    """A message as Gorse's JSON has it."""
    row: dict[str, Any] = {}
    for name, (_, type_) in _MESSAGES[kind].items():
        value = getattr(message, name)
        if type_ == _TIME:
            # Go's year 1 is no time.
            seconds = value.seconds
            row[name] = write_time(1000 * seconds + value.nanos // 1_000_000) if seconds > 0 else ""
        elif type_ == _STRINGS:
            row[name] = list(value)
        elif type_ == _BYTES:
            row[name] = msgspec.Raw(value or b"null")
        else:
            row[name] = value
    return row
