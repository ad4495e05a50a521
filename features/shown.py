"""What a person was shown: entries of a time and an item, in a column of the person's row.

An entry is 12 bytes, little-endian: seconds since 1970 (uint32), the item's hash (int64).
"""

import struct
from collections.abc import Iterable

import numpy as np

from features.columns import ReadingRow, Stored, decode_columns
from features.store import ENTRY_BYTES, SHOWN, EntryAppend
from features.topics import Hash, hash64

COLUMN = "shown"
_ENTRY = struct.Struct("<Iq")
_ENTRIES = np.dtype([("time_s", "<u4"), ("item", "<i8")])
assert _ENTRY.size == _ENTRIES.itemsize == ENTRY_BYTES


def append_shown(user_id: str, item_ids: Iterable[str], time_ms: int, limit: int) -> EntryAppend:
    """What the store is to be told of a list.

    Args:
        limit: items that it remembers of a person.
    """
    time_s = time_ms // 1000
    entries = b"".join(_ENTRY.pack(time_s, hash64(name)) for name in item_ids)
    return EntryAppend(SHOWN, user_id, COLUMN, entries, time_ms, limit)


def forget_shown(user_id: str, time_ms: int) -> EntryAppend:
    """What the store is to be told once a person is to be forgotten."""
    return EntryAppend(SHOWN, user_id, COLUMN, b"", time_ms, limit=0)


def decode_shown(stored: Stored, since_ms: int) -> set[Hash]:
    """The items that a person was shown since a time.

    Raises:
        DamagedRowError: the column holds something else.
    """
    with ReadingRow():
        content = decode_columns(SHOWN, stored)[COLUMN] or b""
        entries = np.frombuffer(content, _ENTRIES)
        newer = entries["item"][entries["time_s"] >= since_ms // 1000]
        return set(map(Hash, newer.tolist()))
