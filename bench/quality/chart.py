"""The quality benchmark's chart: NDCG@10 of every method with its interval, a panel a protocol."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.quality.figures import Row
from bench.quality.tables import LARGE, OURS, Rows

# Colours that people with any colour vision tell apart: M. Okabe, K. Ito, "Color Universal Design".
_OURS, _PART, _LEARNED, _COUNTS = "#0072B2", "#56B4E9", "#D55E00", "#7A7A7A"
_LEGEND = {"ours": _OURS, "a part left out": _PART, "RecTools, tuned": _LEARNED, "counts": _COUNTS}
_PANEL_INCHES, _ROW_INCHES, _FRAME_INCHES = 5.0, 0.27, 1.6
_DPI = 150
# Letters of the caption that an inch holds.
_LETTERS = 12


def draw(rows: Mapping[str, Rows], rules: str, path: Path) -> None:
    """Write the chart, as SVG, PNG or PDF by the ending of its name."""
    names = list(next(iter(rows.values())))
    size = (_PANEL_INCHES * len(rows) + 1, _ROW_INCHES * len(names) + _FRAME_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (protocol, of) in zip(panels, rows.items(), strict=True):
        _panel(panel, protocol.replace("_", " "), of)
    figure.legend(handles=_handles(panels[0]), loc="outside upper left", ncols=4, frameon=False)
    caption = f"NDCG@10, all items ranked; bars: 95 % by bootstrap over people; {rules}"
    lines = textwrap.wrap(caption, int(_LETTERS * size[0]))
    figure.supxlabel("\n".join(lines), fontsize="small", color=_COUNTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _panel(axes: Axes, title: str, rows: Rows) -> None:
    """One protocol, its rows in their order; a light line at ours."""
    for place, (name, row) in enumerate(rows.items()):
        _method(axes, place, name, row)
    axes.axvline(rows[OURS]["ndcg_at_10"], color=_OURS, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlim(left=0)
    # The first row on top.
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _method(axes: Axes, place: int, name: str, row: Row) -> None:
    low, high = row["ndcg_at_10_interval"]
    value, color = row["ndcg_at_10"], _color(name)
    axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.45)
    axes.plot(value, place, "o", color=color, markersize=5)
    axes.annotate(
        f"{value:.3f}".removeprefix("0"),
        (high, place),
        (6, 0),
        textcoords="offset points",
        va="center",
        size=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _color(name: str) -> str:
    if name.startswith(OURS):
        return _OURS if name in (OURS, LARGE) else _PART
    return _LEARNED if "RecTools" in name else _COUNTS


def _handles(axes: Axes) -> list[object]:
    """One mark for each kind of method that is there."""
    used = {line.get_color() for line in axes.lines}
    return [
        axes.plot([], [], "o", color=color, label=label)[0]
        for label, color in _LEGEND.items()
        if color in used
    ]
