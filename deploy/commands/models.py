"""`headwater evaluate`, `tune` and `optimize`: a model judged, searched for, and made faster."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from headwater_client.errors import DataError, SettingsError
from rich.console import Console
from rich.table import Table

from deploy.commands.data_options import Data, Map, Report, Type, data_source, load_log
from deploy.jobs.evaluate import Evaluated, Prequential, evaluate_prequential, evaluate_version
from deploy.jobs.optimize import optimize_version
from deploy.optimize.variants import VariantOutcome
from deploy.progress import ProgressDisplay, show_progress
from deploy.report import write_report
from deploy.settings import load_settings
from features.schema import FeatureSchema
from trainer.evaluation import MethodEvaluation
from trainer.metrics import RankingMetrics
from trainer.registry import ModelRepository
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup
from trainer.training.search import SearchOptions, SearchProgress, SearchTrial, search

GROUPS = {
    "return_visits": "return visits",
    "first_requests": "first requests",
    "new_people": "new people",
    "new_items": "new items",
    "rare_items": "rare items",
}

Folder = Annotated[
    Path | None,
    typer.Argument(
        help="folder of the version; default: the newest version of the model repository"
    ),
]
Version = Annotated[
    int | None, typer.Option(help="number of the version in the model repository", min=1)
]
Share = Annotated[
    float | None,
    typer.Option(
        help="the first part of the log is only history, what follows is judged; default: what "
        "the version was trained on, or 0.8 where its manifest does not say",
        min=0,
        max=1,
    ),
]
RightAfter = Annotated[
    bool,
    typer.Option(
        "--right-after",
        help="predict right after each event, as the stream does, not at the time of the next one",
    ),
]
Prequentially = Annotated[
    bool,
    typer.Option(
        "--prequential",
        help="judge the slow loop instead of a version: train on the first 30 % of the log, then "
        "judge each window before learning from it",
    ),
]
WindowEvents = Annotated[int, typer.Option(help="with --prequential: events of a window", min=1)]


def evaluate(  # noqa: PLR0913 (its options)
    folder: Folder = None,
    version: Version = None,
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    share: Share = None,
    right_after: RightAfter = False,
    prequential: Prequentially = False,
    window_events: WindowEvents = 2000,
    report: Report = None,
) -> None:
    """Judge a version on the newest part of a log, beside decayed popularity; needs no server."""
    if prequential:
        if folder or version or share is not None or right_after:
            raise SettingsError(
                "--prequential judges no version: leave out the folder, --version, --share and "
                "--right-after"
            )
        _evaluate_prequential(data, maps, types, window_events, report)
        return

    if folder and version:
        raise SettingsError("a folder and --version exclude one another")
    settings = load_settings()
    chosen = folder or ModelRepository(settings.model_repository).existing_version(version).folder
    with Console(stderr=True).status("reading the log, then asking the model"):
        log = load_log(data_source(settings, data, maps, types))
        found = evaluate_version(settings, chosen, log, share, right_after)
    _print(found)
    if report:
        figures = msgspec.to_builtins(found, enc_hook=str)
        write_report(report, "evaluate", ["headwater", *sys.argv[1:]], figures)


def _evaluate_prequential(
    data: Path | None,
    maps: list[str] | None,
    types: list[str] | None,
    window_events: int,
    report: Path | None,
) -> None:

    settings = load_settings()
    with Console(stderr=True).status("reading the log, then training the first model") as status:
        log = load_log(data_source(settings, data, maps, types))
        found = evaluate_prequential(settings, log, window_events, status.update)
    Console().print(_windows_table(found))
    print(
        f"last third: {found.over_frozen:.3f} times the first model's NDCG@10; "
        f"forgotten of the windows before: {found.forgetting:.1%}"
    )
    if report:
        write_report(
            report, "prequential", ["headwater", *sys.argv[1:]], msgspec.to_builtins(found)
        )


def _windows_table(found: Prequential) -> Table:

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("window", "events", "NDCG@10\nfrozen", "NDCG@10\nlearning", "CPU s"):
        table.add_column(title, justify="right")
    for number, row in enumerate(found.windows, 1):
        scores = f"{row.frozen:.4f}", f"{row.incremental:.4f}"
        table.add_row(str(number), str(row.events), *scores, f"{row.seconds:.1f}")
    return table


def _print(found: Evaluated) -> None:

    since = datetime.fromtimestamp(found.since_ms / 1000, UTC)
    model, popularity = found.evaluation.model, found.evaluation.popularity
    low, high = model.ndcg_at_10_interval
    print(
        f"{found.version}: {found.judged_events} events from {since:%Y-%m-%d %H:%M} on, "
        f"after {found.history_events} of history"
    )
    if found.trained_on:
        print(f"{found.trained_on} of these events were trained on: the figures flatter the model")
    Console().print(_table(model, popularity))
    print(
        f"NDCG@10 between {low:.4f} and {high:.4f} (95 %); "
        f"coverage {model.coverage:.3f}, of popularity {popularity.coverage:.3f}\n"
        "pop.: popularity that fades by half in 7 days; new items have no event in the history,\n"
        "rare ones fewer than 5"
    )


def _table(model: MethodEvaluation, popularity: MethodEvaluation) -> Table:

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column("events", justify="right")
    for method in ("model", "pop."):
        for figure in ("HR@10", "NDCG@10", "HR@50"):
            table.add_column(f"{method}\n{figure}", justify="right")
    rows = {"all": (model.overall, popularity.overall)}
    rows |= {title: (model.groups[name], popularity.groups[name]) for name, title in GROUPS.items()}
    for title, (ours, theirs) in rows.items():
        table.add_row(title, str(ours.events), *_cells(ours), *_cells(theirs))
    return table


def _cells(found: RankingMetrics) -> list[str]:
    if not found.events:
        return ["-"] * 3
    return [f"{found.hr_at_10:.3f}", f"{found.ndcg_at_10:.4f}", f"{found.hr_at_50:.3f}"]


Number = Annotated[
    int | None, typer.Option("--version", help="number of the version; default: the newest", min=1)
]


def optimize(
    number: Number = None, data: Data = None, maps: Map = None, types: Type = None
) -> None:
    """Build faster variants of a version: INT8 for CPUs, TensorRT engines where there is a GPU.

    Each is kept only if it answers held-out events of the log as the version does.
    """
    settings = load_settings()
    log = load_log(data_source(settings, data, maps, types))
    for outcome in optimize_version(settings, number, log):
        print(_line(outcome))


def _line(outcome: VariantOutcome) -> str:
    parity = outcome.parity
    if outcome.folder is None or parity is None:
        return f"{outcome.variant}: not used, the version stays on ONNX Runtime: {outcome.refusal}"
    return (
        f"{outcome.variant}: {outcome.folder}: {parity.overlap:.1%} of the best 10 are the "
        f"graph's, NDCG@10 {parity.ndcg_ratio:.2%} of its"
    )


Trials = Annotated[
    int, typer.Option(help="trainings in all; those of earlier runs in --study count", min=1)
]
SearchShare = Annotated[
    float, typer.Option(help="use this first part of the log only", min=0.01, max=1)
]
Timeout = Annotated[
    float | None, typer.Option(help="seconds after which no further trial begins", min=0)
]
Study = Annotated[
    Path | None, typer.Option(help="keep the trials in this file, and continue from it next time")
]


def tune(  # noqa: PLR0913 (its options)
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    trials: Trials = 20,
    share: SearchShare = 1.0,
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
    Console().print(_trials_table(found))
    print(_toml(found[0]), end="")
    if report:
        figures = {"best": found[0], "trials": found, "events": len(log.events)}
        program = ["headwater", *sys.argv[1:]]
        write_report(report, "tune", program, msgspec.to_builtins(figures))


def _trials_table(found: Sequence[SearchTrial]) -> Table:

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
