"""The parts of a benchmark: one that fails leaves the others, and what was found.

What was found is kept after each, so that a run that is cut off has figures, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

_LINE = 600


@dataclass
class Progress:
    """What was found so far.

    Attributes:
        keep: is given all figures after every part.
        until: of the monotonic clock; what begins later is left out.
        failed: why a part has no figures, or not all, in a line.
    """

    console: Console
    keep: Callable[[Mapping[str, Any]], None]
    until: float
    figures: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return time.monotonic() > self.until

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part; what it raises is told in the report."""
        started = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 (told: other parts go on)
            why = " ".join(f"{type(error).__name__}: {error}".split())[:_LINE]
            self.failed[name] = why
            self.console.print(f"{name}: {why}", highlight=False, markup=False)
        self.keep(self.figures | {"failed": self.failed})
        seconds = time.monotonic() - started
        self.console.print(f"{name}: {seconds:.1f} s", highlight=False, markup=False)
