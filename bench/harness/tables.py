"""Tables of figures."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table


def figures_table(title: str, rows: str, columns: Iterable[str]) -> Table:
    """An empty table: what the rows are stands on the left, figures to the right of it.

    Args:
        rows: what the first column is called.
    """
    table = Table(rows, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table
