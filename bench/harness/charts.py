"""What the charts of all benchmarks have in common: colours, panels, and the file they end in."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours that people with any colour vision tell apart: M. Okabe, K. Ito, "Color Universal Design".
BLUE, LIGHT_BLUE, RED = "#0072B2", "#56B4E9", "#D55E00"
GREEN, PINK, GREY = "#009E73", "#CC79A7", "#7A7A7A"
_GRID = "#E4E4E4"
_DPI = 150


def make_panels(
    inches: tuple[float, float], rows: int = 1, columns: int = 1, *, same_y: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    """A figure and its panels, row by row; those above each other have the same x axis.

    Args:
        same_y: panels beside each other have the same axes, too.
    """
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        rows, columns, sharex="col" if rows > 1 else same_y, sharey=same_y, squeeze=False
    )
    return figure, panels.reshape(-1).tolist()


def tidy(panels: Iterable[Axes], grid: str = "both", hidden: Sequence[str] = ()) -> None:
    """Lines of a grid behind what is drawn, and no frame."""
    for axes in panels:
        axes.grid(axis=grid, color=_GRID, linewidth=0.6)  # type: ignore[arg-type]
        axes.set_axisbelow(True)
        axes.spines[["top", "right", *hidden]].set_visible(False)


def annotate(axes: Axes, text: str, at: tuple[float, float], color: str = GREY) -> None:
    """A small text right above a point."""
    axes.annotate(text, at, (4, 3), textcoords="offset points", fontsize="x-small", color=color)


def save(figure: Figure, path: Path) -> None:
    """Write a chart, as SVG, PNG or PDF by the ending of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
