"""`headwater tune`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from headwater_client.errors import DataError
from rich.console import Console
from rich.table import Table

from deploy.commands.data_options import Data, Map, Report, Type, data_source
from deploy.progress import ProgressDisplay, show_progress
from deploy.report import write_report
from deploy.settings import load_settings
from features.schema import FeatureSchema
from trainer.datasets import load_log
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup
from trainer.training.search import SearchOptions, SearchProgress, SearchTrial, search

Trials = Annotated[
    int, typer.Option(help="trainings in all, those of an earlier run in --study included", min=1)
]
Share = Annotated[
    float, typer.Option(help="search on this first part of the log only", min=0.01, max=1)
]
Timeout = Annotated[float | None, typer.Option(help="seconds after which none begins", min=0)]
Study = Annotated[
    Path | None, typer.Option(help="keep the trials in this file, and go on from there next time")
]


def tune(  # noqa: PLR0913 (its options)
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    trials: Trials = 20,
    share: Share = 1.0,
    timeout: Timeout = None,
    study: Study = None,
    report: Report = None,
) -> None:
    """Search for better settings of training, judged on the newest part of a log."""
    settings = load_settings()
    log, _ = load_log(data_source(settings, data, maps, types)).split(share)
    text_encoder = load_text_encoder(settings.trainer.language_model, settings.local.cache_dir)
    options = SearchOptions(trials, timeout, study)
    schema = FeatureSchema(settings.features)
    with show_progress() as display:
        found = search(
            log,
            schema,
            TrainingSetup(settings.trainer, text_encoder=text_encoder),
            options,
            lambda at: _show(display, at),
        )
    if not found:
        raise DataError("no trial ended: give it more time with --timeout")
    Console().print(_table(found))
    print(_toml(found[0]), end="")
    if report:
        figures = {"best": found[0], "trials": found, "events": len(log.events)}
        program = ["headwater", *sys.argv[1:]]
        write_report(report, "tune", program, msgspec.to_builtins(figures))


def _table(found: Sequence[SearchTrial]) -> Table:

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "NDCG@10", "epoch", "seconds", *found[0].settings, ""):
        table.add_column(name.replace("_", "\n"), justify="right")
    for one in found:
        table.add_row(
            str(one.number),
            f"{one.ndcg_at_10:.4f}",
            str(one.epoch),
            f"{one.seconds:.0f}",
            *(f"{value:g}" for value in one.settings.values()),
            "ended early" if one.pruned else "",
        )
    return table


def _toml(best: SearchTrial) -> str:
    """The best settings, as `headwater.toml` has them."""
    lines = [f"{name} = {value}" for name, value in best.settings.items()]
    kept = f"# trial {best.number}: held-out NDCG@10 {best.ndcg_at_10:.4f} at epoch {best.epoch}"
    return "\n".join([kept, "[trainer]", *lines, ""])


def _show(display: ProgressDisplay, at: SearchProgress) -> None:
    best = "" if at.best is None else f", best {at.best:.4f}"
    metrics = at.training.metrics
    done = at.ended + (min(metrics.done, 1.0) if metrics else 0.0)
    display.show(f"trials: {at.ended + 1}: {at.training}{best}", done, at.trials)
