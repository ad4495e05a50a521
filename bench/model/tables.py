"""Tables and the chart of `bench.model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from bench.harness import charts
from bench.harness.runner import make_table

_COLORS = (charts.BLUE, charts.LIGHT_BLUE, charts.RED)
_AGREEMENT = {
    "same of the best 10": ("overlap", ".4f"),
    "furthest score": ("furthest", ".2g"),
    "NDCG@10": ("ndcg", ".4f"),
    "kept": ("ndcg_kept", ".4f"),
}
_SIZES = {
    "users/s": ("users_per_second", ",.0f"),
    "over the published": ("over_fp32", ".2f"),
    "NDCG@10": ("ndcg", ".4f"),
    "kept": ("ndcg_kept", ".4f"),
    "same of the best 10": ("overlap", ".4f"),
}


def make_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """What was measured: users/s by history and batch, agreement, sizes, serving."""
    forms = figures.get("forms", {})
    for history in dict.fromkeys(history for found in forms.values() for history in found):
        rates = {name: found[history] for name, found in forms.items() if history in found}
        batches = list(dict.fromkeys(batch for found in rates.values() for batch in found))
        shown = make_table(f"users/s, history {history}", "batch", batches)
        for name, found in rates.items():
            cells = (found[b]["users_per_second"] if b in found else None for b in batches)
            shown.add_row(name, *("-" if rate is None else f"{rate:,.0f}" for rate in cells))
        yield shown
    if agreement := figures.get("agreement"):
        yield _forms_table("beside the graph in ONNX Runtime", _AGREEMENT, agreement)
    if sizes := figures.get("sizes"):
        yield _forms_table("sizes, held-out events in batches of 64", _SIZES, sizes)
    if serving := figures.get("serving"):
        yield _serving_table(serving)


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
    """NDCG@10 over users/s: a line for each size, from its slowest form to its fastest."""
    figure, (axes,) = charts.make_panels((6.0, 4.0))
    by_size: dict[str, list[Mapping[str, float]]] = {}
    for name, form in figures["sizes"].items():
        by_size.setdefault(name.split(", ")[0], []).append(form)
    for color, (size, made) in zip(_COLORS, by_size.items(), strict=False):
        across = [form["users_per_second"] for form in made]
        axes.plot(across, [form["ndcg"] for form in made], ".-", color=color, lw=1, label=size)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.15 * max(form["ndcg"] for form in figures["sizes"].values()))
    axes.set_xlabel("users/s, one core, batches of 64")
    axes.set_title("NDCG@10 of sizes, from as published to INT8", loc="left", fontsize="medium")
    axes.legend(frameon=False, loc="lower left")
    charts.tidy([axes])
    return figure
