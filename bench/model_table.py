"""Tables of `bench.model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


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
    if sizes := figures.get("sizes"):
        yield _sizes(sizes)
    if catalogue := figures.get("catalogue"):
        yield _catalogue(catalogue)


def _rates(history: str, forms: Mapping[str, Any]) -> Table:
    batches = list(dict.fromkeys(batch for found in forms.values() for batch in found))
    shown = Table(title=f"users/s, history {history}; times the floor", title_justify="left")
    shown.add_column("batch")
    for batch in batches:
        shown.add_column(batch, justify="right")
    for name, found in forms.items():
        shown.add_row(name, *(_rate(found.get(batch)) for batch in batches))
    return shown


def _rate(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    over = f" {found['over_floor']:.0f}x" if "over_floor" in found else ""
    recall = f", recall {found['recall_at_10']:.3f}" if "recall_at_10" in found else ""
    return f"{found['users_per_second']:,.0f}{over}{recall}"


def _agreement(forms: Mapping[str, Mapping[str, float]]) -> Table:
    shown = Table(title="beside the graph in ONNX Runtime", title_justify="left")
    for title in ("", "same of the best 10", "furthest score", "NDCG@10", "kept"):
        shown.add_column(title, justify="right" if title else "left")
    for name, found in forms.items():
        shown.add_row(
            name,
            f"{found['overlap']:.4f}",
            f"{found['furthest']:.2g}",
            f"{found['ndcg']:.4f}",
            f"{found['ndcg_kept']:.4f}",
        )
    return shown


def _catalogue(sizes: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for found in sizes.values() for name in found))
    shown = Table(
        title="users/s by items, batches of 64; times the floor, or recall of the best 10",
        title_justify="left",
    )
    shown.add_column("items", justify="right")
    for name in names:
        shown.add_column(name, justify="right")
    for items, found in sizes.items():
        shown.add_row(items, *(_rate(found.get(name)) for name in names))
    return shown


def _sizes(forms: Mapping[str, Mapping[str, float]]) -> Table:
    shown = Table(title="sizes, held-out events in batches of 64", title_justify="left")
    for title in ("", "users/s", "over the published", "NDCG@10", "kept", "same of the best 10"):
        shown.add_column(title, justify="right" if title else "left")
    for name, found in forms.items():
        shown.add_row(
            name,
            f"{found['users_per_second']:,.0f}",
            f"{found['over_fp32']:.2f}",
            f"{found['ndcg']:.4f}",
            f"{found['ndcg_kept']:.4f}",
            f"{found['overlap']:.4f}",
        )
    return shown
