"""How far a training is, told phase by phase to whoever shows it; how long a step's stages took."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

# Values between two reports: what is counted is often done in microseconds.
_VALUES_A_REPORT = 1000

Value = TypeVar("Value")


class TrainingPhase(StrEnum):
    """What a training does, in this order; the epochs and what follows, once for each member."""

    READING = "reading the log"
    EXAMPLES = "making examples"
    TEXT_TUNING = "tuning the language model"
    TEXT = "encoding item texts"
    COOCCURRENCE = "counting co-occurrence"
    EPOCHS = "training"
    CALIBRATION = "calibrating"
    EXPORT = "exporting"


@dataclass(frozen=True)
class EpochMetrics:
    """Where the epochs stand after a step, and after an epoch once the held-out events are judged.

    `held_out` is the newest NDCG@10 on held-out events, None before the first; `loss` is a moving
    mean, `gradient_norm` that of the step before clipping.
    """

    epoch: int
    epochs: int
    done: float
    loss: float
    held_out: float | None
    step: int = 0
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    epoch_ends: bool = False

    def __str__(self) -> str:
        quality = "" if self.held_out is None else f", held-out NDCG {self.held_out:.3f}"
        return f"epoch {self.epoch} of {self.epochs}{quality}"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a phase is.

    Attributes:
        done: the fraction of the phase that is done, 0 to 1: of its work or of its time limit,
            whichever is reached first at this pace.
        seconds_left: until the phase ends, at the pace so far and within its time limit; None where
            neither is known. It may end earlier: epochs that bring nothing more are left out.
        metrics: in the phase `EPOCHS`, after each step.
    """

    phase: TrainingPhase
    done: float
    seconds_left: float | None = None
    metrics: EpochMetrics | None = None

    def __str__(self) -> str:
        return f"{self.phase}: {self.metrics}" if self.metrics else str(self.phase)


Report = Callable[[TrainingProgress], None]


class ProgressReporter:
    """Estimates the time left of one phase after another and hands both to a report.

    Args:
        report: None: nobody wants to know.
        now_s: tells the time; a test has another.
    """

    def __init__(
        self, report: Report | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.report = report
        self.now_s = now_s
        self.start(TrainingPhase.EXAMPLES, tell=False)

    def start(self, phase: TrainingPhase, limit_s: float = math.inf, *, tell: bool = True) -> None:
        """Begin a phase, which ends after `limit_s` at the latest."""
        self._phase, self._limit_s, self._began_s = phase, limit_s, self.now_s()
        if tell and self.report:
            self.report(TrainingProgress(phase, 0.0, self._seconds_left(0.0, 0.0)))

    def update(self, done: float, metrics: EpochMetrics | None = None) -> None:
        """Say how much of the phase's work is done, 0 to 1."""
        if self.report:
            elapsed_s = self.now_s() - self._began_s
            done = max(done, min(1.0, elapsed_s / self._limit_s))
            left_s = self._seconds_left(done, elapsed_s)
            self.report(TrainingProgress(self._phase, done, left_s, metrics))

    def track(self, phase: TrainingPhase, values: Sequence[Value]) -> Iterator[Value]:
        """The values, counted as they are taken: they are the phase."""
        self.start(phase)
        for number, value in enumerate(values):
            if number and number % _VALUES_A_REPORT == 0:
                self.update(number / len(values))
            yield value
        self.update(1.0)

    def _seconds_left(self, done: float, elapsed_s: float) -> float | None:
        if done > 0:
            return elapsed_s * (1 - done) / done
        return None if math.isinf(self._limit_s) else self._limit_s


class Stopwatch:
    """Seconds by stage, in their order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began
