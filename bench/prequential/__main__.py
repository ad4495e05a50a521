"""Test, then train: what the slow loop is worth, window by window from an early start.

uv run python -m bench.prequential
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from headwater_client.errors import SettingsError
from rich.console import Console

from bench.harness.report import run_benchmark, write_report
from bench.harness.work import UNHURRIED_S, kept_or_temporary
from bench.prequential.chart import draw
from bench.prequential.figures import (
    FROZEN,
    INCREMENTAL,
    RETRAIN,
    WITHOUT_REPLAY,
    figures,
    table,
)
from bench.prequential.work import kept_first, retrained
from deploy.commands.data_options import Data, Map, Type
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets.log import DataSource, load_log
from trainer.datasets.mapping import mapping_from_options
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
from trainer.settings import FineTuneSettings, TrainerSettings
from trainer.text.encoder import language_model

QUICK_EVENTS, QUICK_WINDOW = 6_000, 700


def main(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    chart: Annotated[Path | None, typer.Option(help="draw quality over time: SVG or PNG")] = None,
    window_events: Annotated[int, typer.Option(help="of a window", min=1)] = 2000,
    retrain_every: Annotated[
        int, typer.Option(help="windows from one full training to the next", min=1)
    ] = 5,
    threads: Annotated[int, typer.Option(help="of training", min=1)] = 2,
    work: Annotated[
        Path | None, typer.Option(help="keep full trainings here, and take up finished ones")
    ] = None,
    quick: Annotated[bool, typer.Option(help="a small part: whether it works")] = False,
) -> None:
    """Judge versions on each window before they learn from it."""
    console = Console(stderr=True)
    log = load_log(
        DataSource(default_cache_dir(), data, mapping_from_options(maps or [], types or []))
    )
    settings = TrainerSettings(threads=threads, max_seconds=UNHURRIED_S)
    if quick:
        log, window_events = log.head(QUICK_EVENTS), QUICK_WINDOW
        settings = settings.model_copy(update={"epochs": 1})
    reader = language_model(settings.language_model, default_cache_dir())
    learning = LearningSetup(settings, FineTuneSettings(), reader)
    stream = WindowedLog(log, FeatureSchema(FeatureSettings()), window_events)
    check_retrained(len(stream.windows), retrain_every)

    def follow(name: str, steps: Iterator[PrequentialStep]) -> PrequentialRun:
        return course(
            steps,
            stream,
            lambda step, score: console.print(
                f"{name}, window {step.window} of {len(stream.windows)}: NDCG@10 {score:.4f}, "
                f"{step.seconds:.1f} s",
                highlight=False,
            ),
        )

    with kept_or_temporary(work) as kept:
        first = kept_first(stream, learning, kept)
        forgetful = learning.tuning.model_copy(update={"replay": 0})
        courses = {
            FROZEN: follow(FROZEN, frozen(first.trained, stream)),
            INCREMENTAL: follow(INCREMENTAL, incremental(first.trained, stream, learning)),
            WITHOUT_REPLAY: follow(
                WITHOUT_REPLAY,
                incremental(first.trained, stream, LearningSetup(settings, forgetful, reader)),
            ),
            RETRAIN: follow(RETRAIN, retrained(stream, learning, retrain_every, kept)),
        }
    found = figures(courses, stream) | {
        "window_events": window_events,
        "retrain_every": retrain_every,
        "fine_tune": learning.tuning.model_dump(mode="json"),
    }
    Console().print(table(found))
    if report:
        write_report(report, "prequential", found)
    if chart:
        draw(found, chart)


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


if __name__ == "__main__":
    run_benchmark(main)
