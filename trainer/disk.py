"""Files that survive a power cut: what is written, and the name it is found by."""

import hashlib
import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that nobody looks for yet."""
    try:
        path.write_bytes(content)
        sync(path)
    except OSError:
        # A full disk: leave no part that fills it.
        path.unlink(missing_ok=True)
        raise


def replace_synced(path: Path, content: bytes) -> None:
    """Write a file under a name that hides it, then give it its own: whole, or as it was."""
    aside = hidden_path(path)
    write_synced(aside, content)
    aside.replace(path)


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hidden_path(path: Path) -> Path:
    """Where a file is while it is not whole."""
    return path.with_name(f".{path.name}")


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk: a new name is not there before its folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
