"""A row store in memory, with the conditional write of the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from features.columns import decode_columns, encode_columns
from features.store import ENTRY_BYTES, ENTRY_TIME_BYTES, EntryAppend, RowRead, RowWrite


class MemoryRowStore:
    """Rows by table and entity, each written only if its version is still as it was read.

    Attributes:
        damaged: what was kept of rows that did not decode.
        reads: the number of calls of `read` that asked for something.
        before_write: called with each batch of writes; may change rows meanwhile, or fail.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, bytes]] = {}
        self.damaged: dict[tuple[str, str], dict[str, bytes | None]] = {}
        self.marks: dict[str, str] = {}
        self.reads = 0
        self.before_write: Callable[[Sequence[RowWrite]], None] = lambda writes: None

    async def read(self, reads: Sequence[RowRead]) -> list[dict[str, bytes | None]]:
        self.reads += bool(reads)
        return [
            {name: self.rows.get((r.table.name, r.entity_id), {}).get(name) for name in r.columns}
            for r in reads
        ]

    async def write(self, writes: Sequence[RowWrite]) -> list[bool]:
        if writes:
            self.before_write(writes)
        return [self._write(write) for write in writes]

    async def append(self, appends: Sequence[EntryAppend]) -> None:
        for append in appends:
            row = self.rows.setdefault((append.table.name, append.entity_id), {})
            held = decode_columns(append.table, {append.column: row.get(append.column)})
            added = _split(append.entries)
            subjects = {entry[ENTRY_TIME_BYTES:] for entry in added}
            old = _split(held[append.column] or b"")
            kept = [entry for entry in old if entry[ENTRY_TIME_BYTES:] not in subjects]
            content = b"".join([*kept, *added][-append.limit :] if append.limit else [])
            row.update(encode_columns(append.table, {append.column: content}))

    async def claim(self, mark: str, text: str, replace: bool = False) -> str:
        before = self.marks.get(mark)
        if before is None or replace:
            self.marks[mark] = text
        return text if before is None else before

    async def keep_damaged(self, read: RowRead, stored: Mapping[str, bytes | None]) -> str:
        self.damaged[read.table.name, read.entity_id] = dict(stored)
        return f"damaged:{read.table.name}"

    def _write(self, write: RowWrite) -> bool:
        row = self.rows.setdefault((write.table.name, write.entity_id), {})
        if row.get(write.version) != write.expected:
            return False
        row.update(write.columns)
        return True


def _split(entries: bytes) -> list[bytes]:
    return [entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)]
