"""The chart of `bench.model`: what sizes and forms keep at what speed, and growing catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of M. Okabe, K. Ito, "Color Universal Design".
_COLORS = ("#7A7A7A", "#0072B2", "#56B4E9", "#D55E00", "#009E73")
_GRID = "#E4E4E4"
_INCHES = (9.0, 4.0)
_DPI = 150


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Write the chart of a report's figures, as SVG, PNG or PDF by the ending of its name.

    Args:
        figures: with `sizes` or `catalogue`, a panel each.
    """
    panels = {
        name: panel
        for name, panel in (("sizes", _sizes), ("catalogue", _catalogue))
        if name in figures
    }
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    (row,) = figure.subplots(1, len(panels), squeeze=False)
    for axes, (name, panel) in zip(row, panels.items(), strict=True):
        panel(axes, figures[name])
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _sizes(axes: Axes, forms: Mapping[str, Mapping[str, float]]) -> None:
    """A line for each size, from its slowest form to its fastest."""
    by_size: dict[str, list[Mapping[str, float]]] = {}
    for name, one in forms.items():
        by_size.setdefault(name.split(", ")[0], []).append(one)
    for color, (size, made) in zip(_COLORS[1:], by_size.items(), strict=False):
        across = [one["users_per_second"] for one in made]
        up = [one["ndcg"] for one in made]
        axes.plot(across, up, ".-", color=color, linewidth=1, label=size)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.15 * max(one["ndcg"] for one in forms.values()))
    axes.set_xlabel("users/s, one core, batches of 64")
    axes.set_title("NDCG@10 of sizes, from as published to INT8", loc="left", fontsize="medium")
    axes.legend(frameon=False, loc="lower left")


def _catalogue(axes: Axes, sizes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A line for each way to find the best items."""
    names = list(dict.fromkeys(name for ways in sizes.values() for name in ways))
    for color, name in zip(_COLORS, names, strict=False):
        found = {int(items): ways[name] for items, ways in sizes.items() if name in ways}
        rates = [one["users_per_second"] for one in found.values()]
        axes.loglog(list(found), rates, ".-", color=color, linewidth=1, label=name)
        for items, one in found.items():
            if one.get("recall_at_10", 1.0) < 1:
                at = (items, one["users_per_second"])
                axes.annotate(
                    f"{one['recall_at_10']:.2f}",
                    at,
                    (4, 2),
                    textcoords="offset points",
                    fontsize="x-small",
                    color=color,
                )
    axes.set_xlabel("items")
    axes.set_title("users/s, and the share of the best 10 found", loc="left", fontsize="medium")
    axes.legend(frameon=False, loc="lower left")
