"""Tables and the chart of `bench.model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bench.harness import charts
from bench.harness.runner import make_table

_COLORS = (charts.GREY, charts.BLUE, charts.LIGHT_BLUE, charts.RED, charts.GREEN)


def make_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Users a second by history and batch; how like the graph each form answers."""
    forms = figures.get("forms", {})
    histories = dict.fromkeys(history for found in forms.values() for history in found)
    for history in histories:
        yield _rates_table(
            history, {name: found[history] for name, found in forms.items() if history in found}
        )
    if agreement := figures.get("agreement"):
        yield _agreement_table(agreement)
    if settings := figures.get("settings"):
        yield _settings_table(settings)
    if sizes := figures.get("sizes"):
        yield _sizes_table(sizes)
    if catalogue := figures.get("catalogue"):
        yield _catalogue_table(catalogue)
    if serving := figures.get("serving"):
        yield _serving_table(serving)


def _rates_table(history: str, forms: Mapping[str, Any]) -> Table:
    batches = list(dict.fromkeys(batch for found in forms.values() for batch in found))
    shown = make_table(f"users/s, history {history}; times the floor", "batch", batches)
    for name, found in forms.items():
        shown.add_row(name, *(_rate(found.get(batch)) for batch in batches))
    return shown


def _settings_table(settings: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    title = "users/s of ONNX Runtime's settings, by batch; times what is served"
    batches = list(dict.fromkeys(batch for found in settings.values() for batch in found))
    shown = make_table(title, "batch", batches)
    for name, found in settings.items():
        cells = (found[batch] for batch in batches)
        shown.add_row(
            name, *(f"{one['users_per_second']:,.0f} {one['over_served']:.2f}x" for one in cells)
        )
    return shown


def _rate(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    over = f" {found['over_floor']:.0f}x" if "over_floor" in found else ""
    return f"{found['users_per_second']:,.0f}{over}"


def _agreement_table(forms: Mapping[str, Mapping[str, float]]) -> Table:
    columns = {
        "same of the best 10": ("overlap", ".4f"),
        "furthest score": ("furthest", ".2g"),
        "NDCG@10": ("ndcg", ".4f"),
        "kept": ("ndcg_kept", ".4f"),
    }
    return _forms_table("beside the graph in ONNX Runtime", columns, forms)


def _sizes_table(forms: Mapping[str, Mapping[str, float]]) -> Table:
    columns = {
        "users/s": ("users_per_second", ",.0f"),
        "over the published": ("over_fp32", ".2f"),
        "NDCG@10": ("ndcg", ".4f"),
        "kept": ("ndcg_kept", ".4f"),
        "same of the best 10": ("overlap", ".4f"),
    }
    return _forms_table("sizes, held-out events in batches of 64", columns, forms)


def _forms_table(
    title: str,
    columns: Mapping[str, tuple[str, str]],
    forms: Mapping[str, Mapping[str, float]],
) -> Table:
    """A row for each form.

    Args:
        columns: by their title, the figure and how it is written.
    """
    shown = make_table(title, "", columns)
    for name, found in forms.items():
        shown.add_row(name, *(format(found[one], how) for one, how in columns.values()))
    return shown


def _catalogue_table(sizes: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for found in sizes.values() for name in found))
    title = "users/s by items, batches of 64; times the floor"
    shown = make_table(title, "items", names)
    shown.columns[0].justify = "right"
    for items, found in sizes.items():
        shown.add_row(items, *(_rate(found.get(name)) for name in names))
    return shown


def _serving_table(serving: Mapping[str, Any]) -> Table:
    title = f"users/s, one thread, {serving['items']} items; over the plain model"
    rates = serving["users_per_second"]
    names = list(next(iter(rates.values())))
    shown = make_table(title, "batch", (name.replace("_", " ") for name in names))
    for batch, found in rates.items():
        cells = (f"{found[name]:,.0f} {found[name] / found['plain']:.2f}x" for name in names)
        shown.add_row(str(batch), *cells)
    return shown


def draw(figures: Mapping[str, Any]) -> Figure:
    """What sizes and forms keep at what speed, and growing catalogues.

    Args:
        figures: with `sizes` or `catalogue`, a panel each.
    """
    panels = {
        name: panel
        for name, panel in (("sizes", _draw_sizes), ("catalogue", _draw_catalogue))
        if name in figures
    }
    figure, row = charts.make_panels((9.0, 4.0), columns=len(panels))
    for axes, (name, panel) in zip(row, panels.items(), strict=True):
        panel(axes, figures[name])
    charts.tidy(row)
    return figure


def _draw_sizes(axes: Axes, forms: Mapping[str, Mapping[str, float]]) -> None:
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


def _draw_catalogue(axes: Axes, sizes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A line for each way to find the best items."""
    names = list(dict.fromkeys(name for ways in sizes.values() for name in ways))
    for color, name in zip(_COLORS, names, strict=False):
        found = {int(items): ways[name] for items, ways in sizes.items() if name in ways}
        rates = [one["users_per_second"] for one in found.values()]
        axes.loglog(list(found), rates, ".-", color=color, linewidth=1, label=name)
    axes.set_xlabel("items")
    axes.set_title("users/s by the size of the catalogue", loc="left", fontsize="medium")
    axes.legend(frameon=False, loc="lower left")
