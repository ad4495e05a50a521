"""Messages as Kafka's client hands them over, which makes none by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True)
class _MadeMessage:
    made_topic: str
    made_key: bytes | str | None
    made_value: bytes | None
    made_headers: Sequence[tuple[str, bytes]]
    made_offset: int

    def topic(self) -> str:
        return self.made_topic

    def key(self) -> bytes | str | None:
        return self.made_key

    def value(self) -> bytes | None:
        return self.made_value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return list(self.made_headers) or None

    def offset(self) -> int:
        return self.made_offset

    def partition(self) -> int:
        return 0

    def error(self) -> None:
        return None


def make_message(
    topic: str,
    key: bytes | str | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]] = (),
    offset: int = 0,
) -> Message:
    """A message that stands in a topic's first partition."""
    return cast("Message", _MadeMessage(topic, key, value, headers, offset))
