"""Tables of `bench.model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from bench.harness.tables import figures_table


def tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Users a second by history and batch; how like the graph each form answers."""
    forms = figures.get("forms", {})
    histories = dict.fromkeys(history for found in forms.values() for history in found)
    for history in histories:
        yield _rates(
            history, {name: found[history] for name, found in forms.items() if history in found}
        )
    if agreement := figures.get("agreement"):
        yield _agreement(agreement)
    if settings := figures.get("settings"):
        yield _settings(settings)
    if sizes := figures.get("sizes"):
        yield _sizes(sizes)
    if catalogue := figures.get("catalogue"):
        yield _catalogue(catalogue)


def _rates(history: str, forms: Mapping[str, Any]) -> Table:
    batches = list(dict.fromkeys(batch for found in forms.values() for batch in found))
    shown = figures_table(f"users/s, history {history}; times the floor", "batch", batches)
    for name, found in forms.items():
        shown.add_row(name, *(_rate(found.get(batch)) for batch in batches))
    return shown


def _settings(settings: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    title = "users/s of ONNX Runtime's settings, by batch; times what is served"
    batches = list(dict.fromkeys(batch for found in settings.values() for batch in found))
    shown = figures_table(title, "batch", batches)
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
    recall = f", recall {found['recall_at_10']:.3f}" if "recall_at_10" in found else ""
    return f"{found['users_per_second']:,.0f}{over}{recall}"


def _agreement(forms: Mapping[str, Mapping[str, float]]) -> Table:
    columns = {
        "same of the best 10": ("overlap", ".4f"),
        "furthest score": ("furthest", ".2g"),
        "NDCG@10": ("ndcg", ".4f"),
        "kept": ("ndcg_kept", ".4f"),
    }
    return _by_form("beside the graph in ONNX Runtime", columns, forms)


def _sizes(forms: Mapping[str, Mapping[str, float]]) -> Table:
    columns = {
        "users/s": ("users_per_second", ",.0f"),
        "over the published": ("over_fp32", ".2f"),
        "NDCG@10": ("ndcg", ".4f"),
        "kept": ("ndcg_kept", ".4f"),
        "same of the best 10": ("overlap", ".4f"),
    }
    return _by_form("sizes, held-out events in batches of 64", columns, forms)


def _by_form(
    title: str,
    columns: Mapping[str, tuple[str, str]],
    forms: Mapping[str, Mapping[str, float]],
) -> Table:
    """A row for each form.

    Args:
        columns: by their title, the figure and how it is written.
    """
    shown = figures_table(title, "", columns)
    for name, found in forms.items():
        shown.add_row(name, *(format(found[one], how) for one, how in columns.values()))
    return shown


def _catalogue(sizes: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for found in sizes.values() for name in found))
    title = "users/s by items, batches of 64; times the floor, or recall of the best 10"
    shown = figures_table(title, "items", names)
    shown.columns[0].justify = "right"
    for items, found in sizes.items():
        shown.add_row(items, *(_rate(found.get(name)) for name in names))
    return shown
