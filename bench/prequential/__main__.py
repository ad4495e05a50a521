"""Test, then train: what the slow loop is worth, window by window from an early start.

uv run python -m bench.prequential
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from headwater_client.errors import SettingsError
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.harness import charts, runner
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema, Float64Array
from features.settings import FeatureSettings
from trainer.evaluation import prequential
from trainer.metrics import draw_people
from trainer.network import TrainedModel
from trainer.registry.checkpoint import load, save
from trainer.settings import FineTuneSettings, TrainerSettings
from trainer.text import load_text_encoder
from trainer.training import TrainingSetup

FROZEN, INCREMENTAL = "frozen", "incremental"
WITHOUT_REPLAY, RETRAIN = "incremental without replay", "full retrain"
_LEARNING = (INCREMENTAL, WITHOUT_REPLAY)
_COLORS = {
    FROZEN: charts.GREY,
    INCREMENTAL: charts.BLUE,
    WITHOUT_REPLAY: charts.LIGHT_BLUE,
    RETRAIN: charts.RED,
}
# The difference of two ways at one window is noisy: so many are averaged.
_SMOOTH = 7

Courses = Mapping[str, prequential.PrequentialRun]


def figures(courses: Courses, stream: prequential.WindowedLog) -> dict[str, Any]:
    """The report: ratios of the last third of the windows, forgetting, and the series."""
    windows = len(stream.windows)
    newest = stream.window_of >= prequential.first_late_window(windows)
    asked = newest & ~np.isnan(courses[RETRAIN].gains)
    return {
        "over_frozen": _ratio(courses, INCREMENTAL, FROZEN, newest),
        "over_frozen_interval": _interval(courses, INCREMENTAL, FROZEN, newest, stream),
        "over_retrain": _ratio(courses, INCREMENTAL, RETRAIN, asked),
        "over_retrain_interval": _interval(courses, INCREMENTAL, RETRAIN, asked, stream),
        "retrain_over_frozen": _ratio(courses, RETRAIN, FROZEN, asked),
        "cost_over_retrain": _cost_ratio(courses, stream, "seconds"),
        "gradients_over_retrain": _cost_ratio(courses, stream, "gradients"),
        "forgetting": {
            name: prequential.forgetting(
                courses[name], stream, prequential.first_late_window(windows)
            )
            for name in _LEARNING
        },
        "ndcg_at_10": {name: _mean(one.gains, newest) for name, one in courses.items()},
        "windows": windows,
        "first_late_window": prequential.first_late_window(windows),
        "series": {name: _series(one, stream) for name, one in courses.items()},
        "seconds": {name: list(one.seconds.values()) for name, one in courses.items()},
        "gradients": {name: list(one.gradients.values()) for name, one in courses.items()},
    }


def _mean(gains: Float64Array, chosen: Any) -> float:
    return float(np.nanmean(gains[chosen])) if (~np.isnan(gains[chosen])).any() else 0.0


def _ratio(courses: Courses, name: str, other: str, chosen: Any) -> float:
    below = _mean(courses[other].gains, chosen)
    return _mean(courses[name].gains, chosen) / below if below else 0.0


def _interval(
    courses: Courses, name: str, other: str, chosen: Any, stream: prequential.WindowedLog
) -> list[float]:
    """95 % of the ratio, by bootstrap over people."""
    ours, theirs = courses[name].gains[chosen], courses[other].gains[chosen]
    there = ~(np.isnan(ours) | np.isnan(theirs))
    if not there.any():
        return [0.0, 0.0]
    who, draws = draw_people(stream.person[chosen][there])
    above, below = (np.bincount(who, one[there])[draws].sum(1) for one in (ours, theirs))
    ratios = above / np.maximum(below, 1e-9)
    return [float(edge) for edge in np.percentile(ratios, (2.5, 97.5))]


def _cost_ratio(courses: Courses, stream: prequential.WindowedLog, of: str) -> float:
    """What an incremental version costs over a full training, both of the last third."""
    since = prequential.first_late_window(len(stream.windows))
    ours, theirs = (
        [cost for window, cost in getattr(courses[name], of).items() if window >= since]
        for name in (INCREMENTAL, RETRAIN)
    )
    return float(np.mean(ours) / np.mean(theirs)) if theirs else 0.0


def _series(one: prequential.PrequentialRun, stream: prequential.WindowedLog) -> list[float | None]:
    """NDCG@10 by window, None where no version was asked."""
    found = [one.gains[stream.window_of == number] for number in range(len(stream.windows))]
    return [float(np.nanmean(gains)) if (~np.isnan(gains)).any() else None for gains in found]


def make_ways_table(found: Mapping[str, Any]) -> Table:
    """The last third, a row a way."""
    columns = ("NDCG@10", "forgotten", "CPU s a version", "events learned a version")
    made = runner.make_table(f"last third of {found['windows']} windows", "", columns)
    for name, score in found["ndcg_at_10"].items():
        forgotten = found["forgetting"].get(name)
        made.add_row(
            name,
            f"{score:.4f}",
            "" if forgotten is None else f"{forgotten:.1%}",
            f"{np.mean(found['seconds'][name][1:] or [0]):.1f}",
            f"{np.mean(found['gradients'][name][1:] or [0]):,.0f}",
        )
    made.caption = (
        f"incremental over frozen {found['over_frozen']:.3f}, over full retrain "
        f"{found['over_retrain']:.3f} at {found['cost_over_retrain']:.1%} of its cost"
    )
    return made


def draw(found: Mapping[str, Any]) -> Figure:
    """NDCG@10 of each way over the windows of the stream."""
    figure, panels = charts.make_panels((9.0, 6.0), rows=2)
    series = {name: np.array(values, float) for name, values in found["series"].items()}
    for name, values in series.items():
        _plot(panels[0], name, values)
        if name != FROZEN:
            _plot(panels[1], name, _smooth_ratio(values, series[FROZEN]))
    for axes in panels:
        axes.axvspan(
            found["first_late_window"] - 0.5, found["windows"] - 0.5, color="#F2F2F2", zorder=0
        )
    charts.tidy(panels, "y")
    panels[0].set_ylabel("NDCG@10")
    panels[1].set_ylabel(f"over frozen, mean of {_SMOOTH} windows")
    panels[1].axhline(1, color=_COLORS[FROZEN], linewidth=0.8)
    panels[1].set_xlabel(f"window of {found['window_events']} events; shaded: the last third")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False
    )
    return figure


def _plot(axes: Axes, name: str, values: Float64Array) -> None:
    """Points where a way was asked now and then."""
    mark = "o" if np.isnan(values).any() else "-"
    axes.plot(values, mark, color=_COLORS[name], label=name, markersize=5, linewidth=1.2)


def _smooth_ratio(values: Float64Array, frozen: Float64Array) -> Float64Array:
    """The ratio: of sums over neighbouring windows where there are all of them."""
    if np.isnan(values).any():
        return values / frozen
    ones = np.ones(min(_SMOOTH, len(values)))
    ratio: Float64Array = np.convolve(values, ones, "same") / np.convolve(frozen, ones, "same")
    return ratio


QUICK_EVENTS, QUICK_WINDOW = 6_000, 700


_COST = "cost.json"


def kept_first(
    stream: prequential.WindowedLog, learning: TrainingSetup, work: Path
) -> prequential.PrequentialStep:
    """The version that all ways begin with."""
    return _train_or_take_up(stream, 0, learning, work)


def retrain(
    stream: prequential.WindowedLog, learning: TrainingSetup, every: int, work: Path
) -> Iterator[prequential.PrequentialStep]:
    """A version trained from nothing before each so many windows, asked about that window only."""
    for window in range(0, len(stream.windows), every):
        yield _train_or_take_up(stream, window, learning, work)


def _train_or_take_up(
    stream: prequential.WindowedLog, window: int, learning: TrainingSetup, work: Path
) -> prequential.PrequentialStep:
    folder = work / _name(stream, window, learning)
    if not (folder / _COST).exists():
        made = prequential.train_before(stream, window, learning)
        folder.mkdir(parents=True, exist_ok=True)
        save(made.trained, folder, {})
        cost = {"seconds": made.seconds, "gradients": made.gradients}
        # Last: a folder that has it is whole.
        (folder / _COST).write_text(json.dumps(cost))
    cost = json.loads((folder / _COST).read_text())
    return prequential.PrequentialStep(window, load(folder), cost["seconds"], cost["gradients"])


def _name(stream: prequential.WindowedLog, window: int, learning: TrainingSetup) -> str:
    """The same only for the same events and settings; threads change no result worth a training."""
    log = stream.learned_log(window)
    chosen = learning.settings.model_dump_json(exclude={"threads"})
    digest = hashlib.sha256(f"{chosen} {log.fingerprint}".encode())
    return f"{len(log.events)}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class PrequentialOptions(runner.MappedDataOptions, runner.ChartOptions):
    """Options of `bench.prequential`."""

    window_events: Annotated[int, typer.Option(help="of a window", min=1)] = 2000
    retrain_every: Annotated[
        int, typer.Option(help="windows from one full training to the next", min=1)
    ] = 5
    threads: runner.Threads = 2
    work: Annotated[
        Path | None, typer.Option(help="keep full trainings here, and take up finished ones")
    ] = None
    quick: runner.Quick = False

    def learning(self) -> TrainingSetup:
        """How every way trains."""
        settings = TrainerSettings(threads=self.threads, max_seconds=runner.UNHURRIED_S)
        if self.quick:
            settings = settings.model_copy(update={"epochs": 1})
        text_encoder = load_text_encoder(settings.language_model, default_cache_dir())
        return TrainingSetup(settings, FineTuneSettings(), text_encoder)

    def stream(self) -> prequential.WindowedLog:
        """The log in windows."""
        log = self.load_log()
        log = log.head(QUICK_EVENTS) if self.quick else log
        return prequential.WindowedLog(log, FeatureSchema(FeatureSettings()), self.events_a_window)

    @property
    def events_a_window(self) -> int:
        """As asked for, but a quick run has small windows."""
        return min(self.window_events, QUICK_WINDOW) if self.quick else self.window_events


def measure(options: PrequentialOptions, console: Console) -> runner.Results:
    """Judge versions on each window before they learn from it."""
    stream, learning = options.stream(), options.learning()
    check_retrained(len(stream.windows), options.retrain_every)
    with runner.work_folder(options.work) as work:
        first = kept_first(stream, learning, work).trained
        ways = learn_in_ways(stream, learning, first) | {
            RETRAIN: retrain(stream, learning, options.retrain_every, work)
        }
        courses = {name: follow(name, steps, stream, console) for name, steps in ways.items()}
    report = figures(courses, stream) | {
        "window_events": options.events_a_window,
        "retrain_every": options.retrain_every,
        "fine_tune": learning.fine_tuning.model_dump(mode="json"),
    }
    return runner.Results(report, [make_ways_table(report)], partial(draw, report))


def learn_in_ways(
    stream: prequential.WindowedLog, learning: TrainingSetup, first: TrainedModel
) -> dict[str, Iterator[prequential.PrequentialStep]]:
    """The versions that come of a first one, without being trained anew."""
    forgetful = learning.fine_tuning.model_copy(update={"replay": 0})
    without_replay = TrainingSetup(learning.settings, forgetful, learning.text_encoder)
    return {
        FROZEN: prequential.keep_first_version(first, stream),
        INCREMENTAL: prequential.fine_tune_versions(first, stream, learning),
        WITHOUT_REPLAY: prequential.fine_tune_versions(first, stream, without_replay),
    }


def follow(
    name: str,
    steps: Iterator[prequential.PrequentialStep],
    stream: prequential.WindowedLog,
    console: Console,
) -> prequential.PrequentialRun:
    """Ask each version about its windows, and tell how it does."""

    def tell(step: prequential.PrequentialStep, score: float) -> None:
        console.print(
            f"{name}, window {step.window} of {len(stream.windows)}: NDCG@10 {score:.4f}, "
            f"{step.seconds:.1f} s",
            highlight=False,
        )

    return prequential.run_prequential(steps, stream, tell)


def check_retrained(windows: int, every: int) -> None:
    """Refuse a run that has no full training in the last third.

    Raises:
        SettingsError: it would have nothing to compare with.
    """
    if not any(
        window % every == 0 for window in range(prequential.first_late_window(windows), windows)
    ):
        raise SettingsError(
            f"--retrain-every {every}: no full training in the last third of {windows} windows: "
            f"choose at most {max(1, windows // 3)}"
        )


BENCHMARK = runner.Benchmark("prequential", PrequentialOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
