"""The chart of `bench.swaps`: Triton's memory and the tail of latency over the swaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of M. Okabe, K. Ito, "Color Universal Design".
_MEMORY, _LATENCY, _QUIET = "#0072B2", "#D55E00", "#7A7A7A"
_INCHES = (7.0, 4.5)
_DPI = 150


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Write the chart of a report's figures, as SVG, PNG or PDF by the ending of its name."""
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    swaps = figures["swaps"]
    _line(above, [one["memory_mb"] for one in swaps], _MEMORY, "Triton's memory, MB")
    _line(below, [one["p99_ms"] for one in swaps], _LATENCY, "p99 during the swap, ms")
    quiet = figures["latency_ms"]["quiet"]["p99"]
    below.set_ylim(top=max(below.get_ylim()[1], 1.15 * quiet))
    below.axhline(quiet, color=_QUIET, linestyle="--", linewidth=1)
    below.annotate("without swaps", (1, quiet), (0, 4), textcoords="offset points", color=_QUIET)
    rate = figures["events_per_second"]
    below.set_xlabel(f"swap, at {rate:,.0f} events/s", color=_QUIET)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _line(axes: Axes, values: Sequence[float], color: str, title: str) -> None:
    """From 0, so that what grows a little looks like it."""
    axes.plot(range(1, len(values) + 1), values, ".-", color=color, linewidth=1)
    axes.set_ylim(0, 1.15 * max(values))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
