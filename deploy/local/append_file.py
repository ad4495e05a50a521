"""Mends append-only files that a full disk has left with zeros in their middle.

What Valkey had begun to write when its disk was full it takes off again, at a place that is wrong
once it has rewritten its file: part of a command stays, zeros follow, then the whole command once
more (see `features.store.redis.append_file`). The next start refuses the file. Without the part and
the zeros it holds what it was to hold. Other damage is left to who looks after the store.
"""

import mmap
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

_FOLDER, _WRITTEN = "appendonlydir", "*.incr.aof"
_ZEROS = re.compile(rb"\0+")
_LONGEST_NUMBER = 20


def mend_append_files(folder: Path) -> int:
    """Cut the zeros, and what they have broken off, out of the append-only files of a store.

    Args:
        folder: of the store, which does not run.

    Returns:
        How many bytes were cut; 0 where no file has such damage.

    Raises:
        OSError: a file cannot be written anew: the disk may still be full.
    """
    return sum(_mend(path) for path in sorted((folder / _FOLDER).glob(_WRITTEN)))


def _mend(path: Path) -> int:
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
        holes = list(_find_holes(log))
        if holes:
            _write_without(path, log, holes)
    return sum(end - start for start, end in holes)


def _write_without(path: Path, log: mmap.mmap, holes: Sequence[tuple[int, int]]) -> None:
    fresh = path.with_suffix(".mended")
    starts = [0, *(end for _, end in holes)]
    ends = [*(start for start, _ in holes), len(log)]
    try:
        with fresh.open("wb") as mended:
            for start, end in zip(starts, ends, strict=True):
                mended.write(log[start:end])
            mended.flush()
            os.fsync(mended.fileno())
        shutil.copymode(path, fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _find_holes(log: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Broken commands with the zeros that have broken them: from where to where."""
    place = 0
    while place < len(log):
        is_whole, after = _read_command(log, place)
        if not is_whole:
            found = _find_zeros(log, place, after)
            if found is None:
                # An end that is cut off the server takes away itself; other damage stays.
                return
            yield place, found
            after = found
        place = after


def _read_command(log: mmap.mmap, place: int) -> tuple[bool, int]:
    """Whether a command is whole, and where it ends; else how far it was to go, at least."""
    if log[place : place + 1] == b"#":
        # A line between commands, such as its time.
        end = log.find(b"\n", place)
        return (True, end + 1) if end >= 0 else (False, len(log))
    parts, after = _read_number(log, place, b"*")
    for _ in range(parts):
        length, start = _read_number(log, after, b"$")
        if length < 0:
            return False, after
        after = start + length + 2
        if log[after - 2 : after] != b"\r\n":
            return False, after
    return parts > 0, after


def _read_number(log: mmap.mmap, place: int, sign: bytes) -> tuple[int, int]:
    """A line's number, and where the next line begins; -1 and `place` where there is no such."""
    end = log.find(b"\r\n", place, place + _LONGEST_NUMBER)
    line = log[place : max(end, place)]
    if line[:1] != sign or not line[1:].isdigit():
        return -1, place
    return int(line[1:]), end + 2


def _find_zeros(log: mmap.mmap, place: int, after: int) -> int | None:
    """Where the zeros end that have broken a command: a command follows, or nothing.

    Args:
        place: of the command.
        after: how far it was to go: the zeros begin before that, or in the line that stands there.
    """
    for zeros in _ZEROS.finditer(log, place):
        if zeros.start() > after + _LONGEST_NUMBER:
            return None
        end = zeros.end()
        if end == len(log) or (log[end : end + 1] == b"*" and _read_command(log, end)[0]):
            return end
    return None
