"""What takes long to make: how long it may take, and where a benchmark keeps it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# No training is cut short because a machine is slow.
UNHURRIED_S = 86_400.0


@contextmanager
def kept_or_temporary(work: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if work:
        yield work
    else:
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            yield Path(folder)
