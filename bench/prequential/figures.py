"""Courses of versions to figures: quality over time, what it cost, what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bench.harness import charts
from bench.harness.runner import make_table
from trainer.evaluation.prequential import PrequentialRun, WindowedLog, forgotten, late
from trainer.metrics import Floats, drawn_people

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

Courses = Mapping[str, PrequentialRun]


def figures(courses: Courses, stream: WindowedLog) -> dict[str, Any]:
    """The report: ratios of the last third of the windows, forgetting, and the series.

    `over_retrain` and `cost_over_retrain` are of the windows that a full training was made for.
    """
    windows = len(stream.windows)
    newest = stream.window_of >= late(windows)
    asked = newest & ~np.isnan(courses[RETRAIN].gains)
    return {
        "over_frozen": _ratio(courses, INCREMENTAL, FROZEN, newest),
        "over_frozen_interval": _interval(courses, INCREMENTAL, FROZEN, newest, stream),
        "over_retrain": _ratio(courses, INCREMENTAL, RETRAIN, asked),
        "over_retrain_interval": _interval(courses, INCREMENTAL, RETRAIN, asked, stream),
        "retrain_over_frozen": _ratio(courses, RETRAIN, FROZEN, asked),
        "cost_over_retrain": _cost_ratio(courses, stream, "seconds"),
        "gradients_over_retrain": _cost_ratio(courses, stream, "gradients"),
        "forgetting": {name: forgotten(courses[name], stream, late(windows)) for name in _LEARNING},
        "ndcg_at_10": {name: _mean(one.gains, newest) for name, one in courses.items()},
        "windows": windows,
        "first_late_window": late(windows),
        "series": {name: _series(one, stream) for name, one in courses.items()},
        "seconds": {name: list(one.seconds.values()) for name, one in courses.items()},
        "gradients": {name: list(one.gradients.values()) for name, one in courses.items()},
    }


def _mean(gains: Floats, chosen: Any) -> float:
    return float(np.nanmean(gains[chosen])) if (~np.isnan(gains[chosen])).any() else 0.0


def _ratio(courses: Courses, name: str, other: str, chosen: Any) -> float:
    below = _mean(courses[other].gains, chosen)
    return _mean(courses[name].gains, chosen) / below if below else 0.0


def _interval(
    courses: Courses, name: str, other: str, chosen: Any, stream: WindowedLog
) -> list[float]:
    """95 % of the ratio, by bootstrap over people."""
    ours, theirs = courses[name].gains[chosen], courses[other].gains[chosen]
    there = ~(np.isnan(ours) | np.isnan(theirs))
    if not there.any():
        return [0.0, 0.0]
    who, draws = drawn_people(stream.person[chosen][there])
    above, below = (np.bincount(who, one[there])[draws].sum(1) for one in (ours, theirs))
    ratios = above / np.maximum(below, 1e-9)
    return [float(edge) for edge in np.percentile(ratios, (2.5, 97.5))]


def _cost_ratio(courses: Courses, stream: WindowedLog, of: str) -> float:
    """What an incremental version costs over a full training, both of the last third."""
    since = late(len(stream.windows))
    ours, theirs = (
        [cost for window, cost in getattr(courses[name], of).items() if window >= since]
        for name in (INCREMENTAL, RETRAIN)
    )
    return float(np.mean(ours) / np.mean(theirs)) if theirs else 0.0


def _series(one: PrequentialRun, stream: WindowedLog) -> list[float | None]:
    """NDCG@10 by window, None where no version was asked."""
    found = [one.gains[stream.window_of == number] for number in range(len(stream.windows))]
    return [float(np.nanmean(gains)) if (~np.isnan(gains)).any() else None for gains in found]


def make_ways_table(found: Mapping[str, Any]) -> Table:
    """The last third, a row a way."""
    columns = ("NDCG@10", "forgotten", "CPU s a version", "events learned a version")
    made = make_table(f"last third of {found['windows']} windows", "", columns)
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


def _plot(axes: Axes, name: str, values: Floats) -> None:
    """Points where a way was asked now and then."""
    mark = "o" if np.isnan(values).any() else "-"
    axes.plot(values, mark, color=_COLORS[name], label=name, markersize=5, linewidth=1.2)


def _smooth_ratio(values: Floats, frozen: Floats) -> Floats:
    """The ratio: of sums over neighbouring windows where there are all of them."""
    if np.isnan(values).any():
        return values / frozen
    ones = np.ones(min(_SMOOTH, len(values)))
    ratio: Floats = np.convolve(values, ones, "same") / np.convolve(frozen, ones, "same")
    return ratio
