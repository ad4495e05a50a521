"""Leaves calls out for a while after one has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

REST_S = 1.0
LONGEST_REST_S = 30.0


@dataclass
class CircuitBreaker:
    """After a failure, calls are left out for a while: each would cost its whole time-out.

    Each rest is twice as long as the one before, until a call succeeds.
    """

    clock: Callable[[], float] = monotonic
    _rest_s: float = REST_S
    _until: float = float("-inf")

    @property
    def open(self) -> bool:
        """Whether calls are left out now."""
        return self.clock() < self._until

    def trip(self, longest_s: float = LONGEST_REST_S) -> None:
        """A call has failed: rest, for `longest_s` at most."""
        rest_s = min(self._rest_s, longest_s)
        self._until = self.clock() + rest_s
        self._rest_s = 2 * rest_s

    def reset(self) -> None:
        """A call has succeeded."""
        self._rest_s = REST_S
