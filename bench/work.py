"""Where a benchmark keeps what takes long to make."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept_or_temporary(work: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if work:
        yield work
    else:
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            yield Path(folder)
