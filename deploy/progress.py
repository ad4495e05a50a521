"""How far a long job is, and how long it will take: as a bar in a terminal, as lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY_S = 10.0
T = TypeVar("T")


class ProgressDisplay:
    """Shows the progress of a job that has phases.

    Args:
        bar: the bar of a terminal; None: lines are printed.
        now_s: tells the time; a test has another.
    """

    def __init__(
        self, console: Console, bar: Progress | None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("", total=None, right="") if bar else None
        self._now_s = now_s
        self._phase = ""
        self._since_s = self._line_s = now_s()

    def show(
        self, phase: str, done: float, total: float | None = None, seconds_left: float | None = None
    ) -> None:
        """Show how far a phase is.

        Args:
            total: what `done` ends at; None: it is not known.
            seconds_left: of this phase; None: as long as the rest takes at the pace so far.
        """
        now_s = self._now_s()
        begins = phase.partition(":")[0] != self._phase
        if begins:
            self._phase, self._since_s = phase.partition(":")[0], now_s
        elif seconds_left is None and total and 0 < done < total:
            seconds_left = (now_s - self._since_s) * (total - done) / done
        how_far = _describe(done, total, seconds_left)
        if self._bar and self._task is not None:
            self._bar.update(
                self._task, description=phase, completed=done, total=total, right=how_far
            )
        elif begins or now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            self._console.print(f"  {phase}: {how_far}", highlight=False, soft_wrap=True)

    def track(self, phase: str, values: Iterable[T]) -> Iterator[T]:
        """The values, counted as they are taken."""
        for number, value in enumerate(values):
            self.show(phase, number)
            yield value


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[ProgressDisplay]:
    """Show the progress of a job on standard error for as long as the block."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield ProgressDisplay(console, None)
        return
    columns = TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[right]}")
    with Progress(*columns, console=console, transient=True) as bar:
        yield ProgressDisplay(console, bar)


def _describe(done: float, total: float | None, seconds_left: float | None) -> str:
    """How far, and for how long still.

    >>> _describe(450, 1000, 130.0), _describe(0.5, 1.0, None), _describe(1200, None, None)
    ('450 of 1,000, about 2 min 10 s left', '50 %', '1,200')
    """
    if total is None:
        return f"{done:,.0f}"
    far = f"{done / total:.0%}".replace("%", " %") if total <= 1 else f"{done:,.0f} of {total:,.0f}"
    return far if seconds_left is None else f"{far}, about {_duration(seconds_left)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
