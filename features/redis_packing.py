"""Redis commands packed by hiredis: in Python, as redis-py does here, a row takes 20 µs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import Connection


class _Packed:
    """What a connection overrides: the same bytes, made in C."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        # A command of two words, such as CLIENT SETINFO, goes over the wire as two arguments.
        name = arguments[0]
        words = tuple(name.split()) if isinstance(name, str) else (name,)
        return [pack_command((*words, *arguments[1:]))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(part for each in commands for part in self.pack_command(*each))]


@lru_cache
def packed(kind: type[Connection]) -> type[Connection]:
    """The connection class with hiredis' packing; a class that has it already as it is."""
    return (
        kind if issubclass(kind, _Packed) else type(f"Packed{kind.__name__}", (_Packed, kind), {})
    )
