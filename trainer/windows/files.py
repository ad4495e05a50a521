"""Files that are whole or absent, on a local disk or any other file system that fsspec knows.

Locally a file is written aside, synced, and linked or renamed to its name. On an object store one
put makes an object, and it appears whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem
from headwater_client.errors import DataError, SettingsError

from trainer.disk import sync, write_synced

ASIDE = ".aside"


class Files:
    """Files below an address; paths are relative to it, with `/`.

    Raises:
        SettingsError: fsspec does not know the address, or lacks a package for it.
    """

    def __init__(self, address: str) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise SettingsError(f"windows.address: {address}: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def address(self, path: str) -> str:
        """The whole address of a file, for messages and other programs."""
        return str(self._fs.unstrip_protocol(self._path(path)))

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
            DataError: it cannot be read.
        """
        with self._readable(path):
            return bytes(self._fs.cat_file(self._path(path)))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(path)))

    def names(self, folder: str) -> list[str]:
        """The names in a folder, none where it does not exist."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError), self._readable(folder):
            return [str(each).rsplit("/", 1)[-1] for each in self._fs.ls(self._path(folder), False)]
        return []

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(path))

    def put(self, path: str, content: bytes) -> None:
        """Write a file that nobody looks for yet."""
        self._make_folder_of(path)
        if self._local:
            write_synced(Path(self._path(path)), content)
        else:
            self._fs.pipe_file(self._path(path), content)

    def create(self, path: str, content: bytes) -> None:
        """Write a file that must not exist; of several writers at once, one succeeds.

        Raises:
            FileExistsError: it does.
        """
        self._make_folder_of(path)
        if self._local:
            self._link(path, content)
        else:
            self._fs.pipe_file(self._path(path), content, mode="create")

    def move(self, path: str, target: str) -> None:
        """Give a file another name; locally at once, else as a copy that appears whole."""
        self._make_folder_of(target)
        if self._local:
            Path(self._path(path)).rename(self._path(target))
            sync(Path(self._path(target)).parent)
        else:
            self._fs.cp_file(self._path(path), self._path(target))
            self.remove(path)

    @contextmanager
    def _readable(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(f"{self.address(path)}: cannot be read: {error}") from error

    def _link(self, path: str, content: bytes) -> None:
        """A rename would replace what is there; a link to a whole file does not."""
        target, aside = Path(self._path(path)), f"{ASIDE}/{uuid4()}"
        self.put(aside, content)
        try:
            target.hardlink_to(self._path(aside))
        finally:
            self.remove(aside)
        sync(target.parent)

    def _make_folder_of(self, path: str) -> None:
        self._fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"
