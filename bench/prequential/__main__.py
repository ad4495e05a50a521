"""Test, then train: what the slow loop is worth, window by window from an early start.

uv run python -m bench.prequential
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from headwater_client.errors import SettingsError
from rich.console import Console

from bench.harness.runner import (
    UNHURRIED_S,
    Benchmark,
    ChartOptions,
    MappedDataOptions,
    Quick,
    Results,
    Threads,
    work_folder,
)
from bench.prequential.figures import (
    FROZEN,
    INCREMENTAL,
    RETRAIN,
    WITHOUT_REPLAY,
    draw,
    figures,
    make_ways_table,
)
from bench.prequential.work import kept_first, retrain
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.evaluation.prequential import (
    LearningSetup,
    PrequentialRun,
    PrequentialStep,
    WindowedLog,
    course,
    frozen,
    incremental,
    late,
)
from trainer.network import TrainedModel
from trainer.settings import FineTuneSettings, TrainerSettings
from trainer.text import load_text_encoder

QUICK_EVENTS, QUICK_WINDOW = 6_000, 700


@dataclass(frozen=True, kw_only=True)
class PrequentialOptions(MappedDataOptions, ChartOptions):
    """Options of `bench.prequential`."""

    window_events: Annotated[int, typer.Option(help="of a window", min=1)] = 2000
    retrain_every: Annotated[
        int, typer.Option(help="windows from one full training to the next", min=1)
    ] = 5
    threads: Threads = 2
    work: Annotated[
        Path | None, typer.Option(help="keep full trainings here, and take up finished ones")
    ] = None
    quick: Quick = False

    def learning(self) -> LearningSetup:
        """How every way trains."""
        settings = TrainerSettings(threads=self.threads, max_seconds=UNHURRIED_S)
        if self.quick:
            settings = settings.model_copy(update={"epochs": 1})
        text_encoder = load_text_encoder(settings.language_model, default_cache_dir())
        return LearningSetup(settings, FineTuneSettings(), text_encoder)

    def stream(self) -> WindowedLog:
        """The log in windows."""
        log = self.load_log()
        log = log.head(QUICK_EVENTS) if self.quick else log
        return WindowedLog(log, FeatureSchema(FeatureSettings()), self.events_a_window)

    @property
    def events_a_window(self) -> int:
        """As asked for, but a quick run has small windows."""
        return min(self.window_events, QUICK_WINDOW) if self.quick else self.window_events


def measure(options: PrequentialOptions, console: Console) -> Results:
    """Judge versions on each window before they learn from it."""
    stream, learning = options.stream(), options.learning()
    check_retrained(len(stream.windows), options.retrain_every)
    with work_folder(options.work) as work:
        first = kept_first(stream, learning, work).trained
        ways = learn_in_ways(stream, learning, first) | {
            RETRAIN: retrain(stream, learning, options.retrain_every, work)
        }
        courses = {name: follow(name, steps, stream, console) for name, steps in ways.items()}
    report = figures(courses, stream) | {
        "window_events": options.events_a_window,
        "retrain_every": options.retrain_every,
        "fine_tune": learning.tuning.model_dump(mode="json"),
    }
    return Results(report, [make_ways_table(report)], partial(draw, report))


def learn_in_ways(
    stream: WindowedLog, learning: LearningSetup, first: TrainedModel
) -> dict[str, Iterator[PrequentialStep]]:
    """The versions that come of a first one, without being trained anew."""
    forgetful = learning.tuning.model_copy(update={"replay": 0})
    without_replay = LearningSetup(learning.settings, forgetful, learning.text_encoder)
    return {
        FROZEN: frozen(first, stream),
        INCREMENTAL: incremental(first, stream, learning),
        WITHOUT_REPLAY: incremental(first, stream, without_replay),
    }


def follow(
    name: str, steps: Iterator[PrequentialStep], stream: WindowedLog, console: Console
) -> PrequentialRun:
    """Ask each version about its windows, and tell how it does."""

    def tell(step: PrequentialStep, score: float) -> None:
        console.print(
            f"{name}, window {step.window} of {len(stream.windows)}: NDCG@10 {score:.4f}, "
            f"{step.seconds:.1f} s",
            highlight=False,
        )

    return course(steps, stream, tell)


def check_retrained(windows: int, every: int) -> None:
    """Refuse a run that has no full training in the last third.

    Raises:
        SettingsError: it would have nothing to compare with.
    """
    if not any(window % every == 0 for window in range(late(windows), windows)):
        raise SettingsError(
            f"--retrain-every {every}: no full training in the last third of {windows} windows: "
            f"choose at most {max(1, windows // 3)}"
        )


BENCHMARK = Benchmark("prequential", PrequentialOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
