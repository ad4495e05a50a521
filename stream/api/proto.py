"""The gRPC contract: the structs of `headwater_client.contract` as protocol buffers.

Each field has presence: what is not set is not sent, as in JSON. Field numbers are those of the
messages that are there already; what is new gets the next free number, and what has gone leaves its
number reserved. So the document may be made again at any time, and stays readable to old clients.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto
from headwater_client import EVENT_TYPES
from headwater_client.contract import Problem
from headwater_client.operations import OPERATIONS, Operation
from msgspec import Struct, inspect

PACKAGE = "headwater.v1"
SERVICE = f"{PACKAGE}.Headwater"
_EMPTY = "google.protobuf.Empty"
_VALUE = "google.protobuf.Value"
_OBJECT = "google.protobuf.Struct"
_SCALARS: dict[type, str] = {
    inspect.StrType: "string",
    inspect.EnumType: "string",
    inspect.LiteralType: "string",
    inspect.IntType: "int64",
    inspect.FloatType: "double",
    inspect.BoolType: "bool",
    # The only thing that is read one by one.
    inspect.RawType: "Event",
}
_HEAD = """\
// The gRPC API: the operations of the HTTP API, with the same structs, keys and problems.
// Written by `headwater schema --grpc`: do not change it by hand.
//
// Every field has presence: one that is not set is not sent, as in JSON. Times are milliseconds
// UTC. The key goes into the metadata `authorization: Bearer KEY`. A refused call has a
// google.rpc.Status with a Problem in its details.

syntax = "proto3";

package {package};

import "google/protobuf/empty.proto";
import "google/protobuf/struct.proto";
"""


@dataclass(frozen=True)
class Numbers:
    """The field numbers of a message.

    Attributes:
        known: by field.
        reserved: those that are not given again.
    """

    known: Mapping[str, int] = field(default_factory=dict)
    reserved: Sequence[int] = ()


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        fields: the type of each, as it stands before its name.
    """

    name: str
    about: str
    fields: Mapping[str, str]


def rpc_operations() -> Iterator[Operation]:
    """The operations that gRPC has: all that answer a struct, but for the probes."""
    for operation in OPERATIONS:
        if operation.answer is not None and not operation.is_open:
            yield operation


def rpc_name(operation: Operation) -> str:
    """The name of an operation's method.

    >>> rpc_name(next(each for each in OPERATIONS if each.name == "rank_items"))
    'RankItems'
    """
    return "".join(word.capitalize() for word in operation.name.split("_"))


def request_name(operation: Operation) -> str:
    """The message that an operation takes: of its query, or one that holds more than that."""
    query = operation.body or operation.query
    if operation.name == "send_events" or path_parts(operation):
        return f"{rpc_name(operation)}Request"
    return query.__name__ if query else _EMPTY


def find_unsent(kind: type[Struct]) -> dict[str, Any]:
    """The lists and maps that a request has to have, and that may hold nothing, as they are then.

    A message does not say whether one that holds nothing is there: it is.

    >>> from headwater_client.contract import AttributesQuery, RankQuery
    >>> find_unsent(AttributesQuery), find_unsent(RankQuery)
    ({'attributes': {}}, {})
    """
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    unsent: dict[str, Any] = {}
    for each in described.fields:
        plain = _plain(each.type)
        if not each.required or not isinstance(plain, inspect.ListType | inspect.DictType):
            continue
        if not plain.min_length:
            unsent[each.encode_name] = [] if isinstance(plain, inspect.ListType) else {}
    return unsent


def path_parts(operation: Operation) -> list[str]:
    """The parts of an operation's path that have names."""
    return re.findall(r"{(\w+)}", operation.path)


def make_proto(numbers: Mapping[str, Numbers]) -> str:
    """The document.

    Args:
        numbers: of the messages that are there already, by their names.
    """
    service = [f"service {SERVICE.rpartition('.')[2]} {{"]
    for operation in rpc_operations():
        assert operation.answer is not None
        takes, answers = request_name(operation), operation.answer.__name__
        service += [
            f"  // {operation.summary}.",
            f"  rpc {rpc_name(operation)}({takes}) returns ({answers});",
        ]
    messages = [
        "\n".join(_write_message(message, numbers.get(message.name, Numbers())))
        for message in _messages().values()
    ]
    parts = [_HEAD.format(package=PACKAGE).rstrip("\n"), "\n".join([*service, "}"]), *messages]
    return "\n".join(f"{part}\n" for part in parts)


def _write_message(message: Message, numbers: Numbers) -> Iterator[str]:
    gone = [number for name, number in numbers.known.items() if name not in message.fields]
    reserved = sorted({*numbers.reserved, *gone})
    following = max([0, *numbers.known.values(), *reserved]) + 1
    yield from (f"// {line}".rstrip() for line in message.about.splitlines())
    yield f"message {message.name} {{"
    if reserved:
        yield f"  reserved {', '.join(map(str, reserved))};"
    for name, kind in message.fields.items():
        number = numbers.known.get(name)
        if number is None:
            number, following = following, following + 1
        yield f"  {kind} {name} = {number};"
    yield "}"


def _messages() -> dict[str, Message]:
    """All messages, by their names, in the order in which they are met."""
    found: dict[str, Message] = {}
    for operation in rpc_operations():
        assert operation.answer is not None
        query = operation.body or operation.query
        fields = dict.fromkeys(path_parts(operation), "optional string")
        if operation.name == "send_events":
            fields["events"] = "repeated Event"
        if fields:
            inner = _fields_of(found, query) if query else {}
            name = request_name(operation)
            found[name] = Message(name, f"{operation.summary}.", {**fields, **inner})
        elif query:
            _add(found, query)
        _add(found, operation.answer)
    _add(found, Problem)
    event = {"type": "optional string"}
    for spec in EVENT_TYPES.values():
        event |= _fields_of(found, spec.struct)
    about = "An event of a registered type; what is missing is filled in, as in JSON."
    found["Event"] = Message("Event", about, event)
    return dict(sorted(found.items()))


def _add(found: dict[str, Message], kind: type[Struct]) -> Message:
    """The message of a struct, and those that it needs."""
    name = kind.__name__
    if name not in found:
        # Before its fields: a struct may hold others of its own kind.
        found[name] = Message(name, "", {})
        about = (kind.__doc__ or "").partition("\n")[0]
        found[name] = Message(name, about, _fields_of(found, kind))
    return found[name]


def _fields_of(found: dict[str, Message], kind: type[Struct]) -> dict[str, str]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return {each.encode_name: _type_of(found, each.type) for each in described.fields}


def _type_of(found: dict[str, Message], kind: Any) -> str:
    """The type of a field, with what stands before it."""
    kind = _plain(kind)
    if isinstance(kind, inspect.ListType):
        return f"repeated {_name_of(found, kind.item_type)}"
    if isinstance(kind, inspect.DictType):
        return f"map<string, {_name_of(found, kind.value_type)}>"
    return f"optional {_name_of(found, kind)}"


def _name_of(found: dict[str, Message], kind: Any) -> str:
    """The type of one value."""
    kind = _plain(kind)
    if isinstance(kind, inspect.StructType):
        return _add(found, kind.cls).name
    if isinstance(kind, inspect.DictType):
        return _OBJECT
    return _SCALARS.get(type(kind), _VALUE)


def _plain(kind: Any) -> Any:
    """A type without what is said of it, and without `None`: what is not set is none."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(others) == 1:
            return _plain(others[0])
    return kind


def read_numbers(file: Any) -> dict[str, Numbers]:
    """The field numbers of a file of messages.

    Args:
        file: its `FileDescriptor`.
    """
    numbers = {}
    for name, message in file.message_types_by_name.items():
        told = DescriptorProto()
        message.CopyToProto(told)
        reserved = [at for each in told.reserved_range for at in range(each.start, each.end)]
        numbers[name] = Numbers({each.name: each.number for each in message.fields}, reserved)
    return numbers
