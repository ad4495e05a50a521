"""A caller of the gRPC API, as an app in any language is one: messages, a channel, a key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from stream.api import headwater_pb2
from stream.api.messages import message_class

SERVICE = "headwater.v1.Headwater"


@dataclass(frozen=True)
class RpcCaller:
    """Calls methods with the documents that HTTP takes, and reads answers as protobuf's own JSON.

    Whole numbers of 64 bits are texts there: `same` compares.
    """

    channel: Any
    secret: str

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.secret}")] if self.secret else []

    def call(self, method: str, document: Mapping[str, Any] | None = None) -> Any:
        """The answer to a call.

        Raises:
            grpc.RpcError: it is refused.
        """
        told = headwater_pb2.DESCRIPTOR.services_by_name["Headwater"].methods_by_name[method]
        takes, answers = (
            json_format.ParseDict(document or {}, _class_of(told.input_type)),
            type(_class_of(told.output_type)),
        )
        unary = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answers.FromString,
        )
        answer = unary(takes, metadata=self.metadata, timeout=30)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def refusal(self, method: str, document: Mapping[str, Any]) -> tuple[str, Any, Any]:
        """The code of a refused call, its problem, and the fields that google.rpc names."""
        with pytest.raises(grpc.RpcError) as refused:
            self.call(method, document)
        error: Any = refused.value
        status = rpc_status.from_call(error)
        assert status is not None, error
        problem, bad = message_class("Problem")(), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(problem)
        for detail in status.details[1:]:
            detail.Unpack(bad)
        found = json_format.MessageToDict(problem, preserving_proto_field_name=True)
        return error.code().name, found, [each.field for each in bad.field_violations]


def _class_of(descriptor: Any) -> Any:
    return GetMessageClass(descriptor)()


@contextmanager
def calling(address: str, secret: str) -> Iterator[RpcCaller]:
    with grpc.insecure_channel(address) as channel:
        yield RpcCaller(channel, secret)


def same(http: Any, other: Any) -> bool:
    """Whether an answer of HTTP and another one, such as gRPC's, say the same.

    Lists and maps that hold nothing are not there in protobuf; whole numbers of 64 bits are texts.
    """
    if isinstance(http, dict):
        one, two = _drop_empty(http), _drop_empty(other)
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(http, list):
        return len(http) == len(other) and all(map(same, http, other))
    if isinstance(http, float):
        # Scores are float32, of a row that is a moment older.
        return math.isclose(http, other, rel_tol=1e-3, abs_tol=1e-6)
    return bool(http == other or (type(http) is int and str(http) == other))


def _drop_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a document has, without what holds nothing."""
    return {name: value for name, value in document.items() if value not in ([], {}, None)}
