"""Small disks that can be filled: to see what becomes of a program whose disk has no room."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TRIES, _MARGIN_BYTES = 20, 64 << 10


@dataclass
class Disk:
    """A small disk of its own below a folder, which can be filled."""

    folder: Path
    size_bytes: int

    @contextmanager
    def mount(self) -> Iterator[None]:
        """Mount it, in the block.

        Raises:
            subprocess.CalledProcessError: this user may not.
            FileNotFoundError: there is no program for it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ("-t", "tmpfs", "-o", f"size={self.size_bytes}", "tmpfs", str(self.folder))
        _run("mount", *options)
        try:
            yield
        finally:
            _run("umount", "--lazy", str(self.folder))

    @contextmanager
    def fill(self) -> Iterator[None]:
        """Leave no room on it, in the block."""
        # At once, and without writing: the disk becomes as small as what is on it.
        for attempt in range(_TRIES):
            try:
                self._resize(shutil.disk_usage(self.folder).used + _MARGIN_BYTES)
                break
            except subprocess.CalledProcessError:
                # More was written in between.
                if attempt == _TRIES - 1:
                    raise
        try:
            yield
        finally:
            self._resize(self.size_bytes)

    def _resize(self, size_bytes: int) -> None:
        _run("mount", "-o", f"remount,size={size_bytes}", str(self.folder))


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(program)
    subprocess.run([path, *arguments], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a disk."""
    try:
        with Disk(folder, 1 << 20).mount():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
