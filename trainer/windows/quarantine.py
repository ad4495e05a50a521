"""Windows that no version learns, because one was refused for their events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from trainer.disk import replace_synced
from trainer.windows.manifest import WindowManifest

FILE = "windows-left-out.json"


class QuarantinedWindows:
    """Their checksums, in a file of the model repository: the next trainer must not learn them."""

    def __init__(self, repository: Path) -> None:
        self._path = repository / FILE
        text = self._path.read_bytes() if self._path.exists() else b"[]"
        self._digests = msgspec.json.decode(text, type=set[str])

    def __contains__(self, window: WindowManifest) -> bool:
        return window.sha256 in self._digests

    def add(self, windows: Iterable[WindowManifest]) -> None:
        """Add some.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        self._digests |= {window.sha256 for window in windows}
        replace_synced(self._path, msgspec.json.encode(sorted(self._digests)))
