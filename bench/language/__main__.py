"""What tuning the language model costs and gives, and whether a knowledge graph adds to it.

uv run python -m bench.language
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from bench.harness.report import run_benchmark, write_report
from bench.harness.tables import figures_table
from bench.language.modes import Asked, measure_graph, measure_tuning
from bench.quality.figures import Row
from trainer.settings import TrainerSettings, Tuning

WIDTH = 132
RULES = (
    "validation of global time, strict ties; new items: a tenth, drawn at random, without an event"
    " to learn from, beside those new in truth; memory: growth of the resident set while tuning; "
    "CPU seconds: of tuning, all threads"
)
Found = TypeVar("Found")


def main(
    data: Annotated[
        Path | None, typer.Option(help="a log; MovieLens-100K if none is given")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    mode: Annotated[
        list[Tuning] | None, typer.Option(help="only this one; may be repeated")
    ] = None,
    graph: Annotated[bool, typer.Option(help="MovieLens-100K's knowledge graph too")] = True,
    film_names: Annotated[
        Path | None,
        typer.Option(help="movies.dat of MovieLens-1M or a later movies.csv: matches the graph"),
    ] = None,
    recommender: Annotated[bool, typer.Option(help="train the recommender on each too")] = False,
    epochs: Annotated[int, typer.Option(help="of the recommender", min=1)] = 6,
    steps: Annotated[int, typer.Option(help="of tuning, at most", min=1)] = 100,
    seconds: Annotated[float, typer.Option(help="wall-clock limit of tuning and training")] = 600,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    quick: Annotated[bool, typer.Option(help="a small part: whether it works")] = False,
) -> None:
    """Tune the language model in each way; choose by validation."""
    settings = TrainerSettings(
        epochs=1 if quick else epochs,
        max_seconds=seconds,
        language_steps=2 if quick else steps,
        language_seconds=seconds,
        threads=threads,
    )
    console, printer = Console(stderr=True), Console(width=WIDTH)
    rows: dict[str, Row] = {}
    for each in mode or list(Tuning):
        wanted = settings.model_copy(update={"language_tuning": each})
        asked = Asked(wanted, data, film_names, recommender, quick)
        rows[each.value] = in_a_process(measure_tuning, asked)
        console.print(f"{each}: {_told(rows[each.value])}", highlight=False)
    if graph and data is None:
        rows |= in_a_process(measure_graph, Asked(settings, data, film_names, recommender, quick))
    printer.print(table(rows))
    printer.print(RULES, highlight=False)
    if report:
        write_report(report, "language", {"rules": RULES, "rows": rows})


def in_a_process(measure: Callable[[Asked], Found], asked: Asked) -> Found:
    """Measure in a process of its own, so that one leaves nothing in another's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, asked).result()


def table(rows: Mapping[str, Row]) -> Table:
    """A row for each way to read the items."""
    columns = ("trainable", "MiB", "CPU s", "misplaced", "after")
    by_neighbours = ("NDCG@10", "HR@50", "new NDCG@10", "new HR@50", "new mean rank")
    by_model = ("model NDCG@10", "new HR@50")
    drawn = figures_table("items by text", "", (*columns, *by_neighbours, *by_model))
    for name, row in rows.items():
        drawn.add_row(name, *_costs(row), *_neighbours(row["neighbours"]), *_model(row))
    return drawn


def _costs(row: Row) -> list[str]:
    if "trainable" not in row:
        return [""] * 5
    before, after = row["misplaced"]
    costs = [f"{row['trainable']:,}", f"{row['memory_mib']:.0f}", f"{row['cpu_seconds']:.0f}"]
    return [*costs, f"{before:.3f}", f"{after:.3f}"]


def _neighbours(row: Row) -> list[str]:
    new = row["groups"]["new_items"]
    return [
        f"{row['ndcg_at_10']:.4f}",
        f"{row['hr_at_50']:.3f}",
        f"{new['ndcg_at_10']:.4f}",
        f"{new['hr_at_50']:.3f}",
        f"{row['mean_rank_new_items']:.3f}",
    ]


def _model(row: Row) -> list[str]:
    found: Any = row.get("recommender")
    if found is None:
        return ["", ""]
    new = found["groups"]["new_items"]
    return [f"{found['ndcg_at_10']:.4f}", f"{new['hr_at_50']:.3f}"]


def _told(row: Row) -> str:
    return f"HR@50 of new items {row['neighbours']['groups']['new_items']['hr_at_50']:.3f}"


if __name__ == "__main__":
    run_benchmark(main)
