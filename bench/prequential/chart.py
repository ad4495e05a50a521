"""The prequential benchmark's chart: NDCG@10 of each way over the windows of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.prequential.figures import FROZEN, INCREMENTAL, RETRAIN, WITHOUT_REPLAY
from trainer.metrics import Floats

# Colours that people with any colour vision tell apart: M. Okabe, K. Ito, "Color Universal Design".
_COLORS = {
    FROZEN: "#7A7A7A",
    INCREMENTAL: "#0072B2",
    WITHOUT_REPLAY: "#56B4E9",
    RETRAIN: "#D55E00",
}
# The difference of two ways at one window is noisy: so many are averaged.
_SMOOTH = 7
_SIZE, _DPI = (9.0, 6.0), 150


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the chart, as SVG, PNG or PDF by the ending of its name."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    series = {name: np.array(values, float) for name, values in found["series"].items()}
    for name, values in series.items():
        _line(panels[0], name, values)
        if name != FROZEN:
            _line(panels[1], name, _over(values, series[FROZEN]))
    for axes in panels:
        late = found["first_late_window"] - 0.5, found["windows"] - 0.5
        axes.axvspan(*late, color="#F2F2F2", zorder=0)
        axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("NDCG@10")
    panels[1].set_ylabel(f"over frozen, mean of {_SMOOTH} windows")
    panels[1].axhline(1, color=_COLORS[FROZEN], linewidth=0.8)
    panels[1].set_xlabel(f"window of {found['window_events']} events; shaded: the last third")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _line(axes: Axes, name: str, values: Floats) -> None:
    """Points where a way was asked now and then."""
    mark = "o" if np.isnan(values).any() else "-"
    axes.plot(values, mark, color=_COLORS[name], label=name, markersize=5, linewidth=1.2)


def _over(values: Floats, frozen: Floats) -> Floats:
    """The ratio: of sums over neighbouring windows where there are all of them."""
    if np.isnan(values).any():
        return values / frozen
    ones = np.ones(min(_SMOOTH, len(values)))
    ratio: Floats = np.convolve(values, ones, "same") / np.convolve(frozen, ones, "same")
    return ratio
