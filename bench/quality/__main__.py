"""Model quality beside peers: same split, same questions, same rules, in one run.

uv run python -m bench.quality
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.harness.report import run_benchmark, write_report
from bench.harness.work import UNHURRIED_S, kept_or_temporary
from bench.quality.chart import draw
from bench.quality.peer_runs import Budget, Peer
from bench.quality.questions import Protocol, Ties, rules
from bench.quality.run import Ablations, start
from bench.quality.tables import OURS, Rows, difference_table, summary, table, verdicts
from deploy.commands.data_options import Data, Map, Type
from deploy.settings import default_cache_dir
from trainer.datasets.log import DataSource, load_log
from trainer.datasets.mapping import mapping_from_options
from trainer.settings import Part, TrainerSettings

WIDTH = 150
QUICK_EVENTS = 8_000
# Without one part of the model each.
ABLATIONS: Ablations = {
    **{f"{OURS} without {part}": {"ablate": frozenset({part})} for part in Part},
    f"{OURS}, plain": {"ablate": frozenset(Part) - {Part.IDENTITY}},
}


def main(
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    chart: Annotated[Path | None, typer.Option(help="draw NDCG@10: an SVG or PNG file")] = None,
    protocol: Annotated[
        list[Protocol] | None, typer.Option(help="only this one; may be repeated")
    ] = None,
    ties: Annotated[Ties, typer.Option(help="order inside a second: none, or the file's")] = (
        Ties.STRICT
    ),
    repeats: Annotated[
        bool, typer.Option(help="items may be taken, and recommended, again")
    ] = False,
    peer: Annotated[
        list[Peer] | None, typer.Option(help="only these of RecTools; may be repeated")
    ] = None,
    peers: Annotated[bool, typer.Option(help="tune peers of RecTools: hours")] = True,
    seeds: Annotated[int, typer.Option(help="of our model; figures are their mean", min=1)] = 3,
    ablations: Annotated[bool, typer.Option(help="ours without one part each, too")] = True,
    threads: Annotated[int, typer.Option(help="of our training", min=1)] = 2,
    max_epochs: Annotated[int, typer.Option(help="of a peer", min=1)] = Budget().max_epochs,
    work: Annotated[
        Path | None, typer.Option(help="keep the peers' runs here, and take up finished ones")
    ] = None,
    quick: Annotated[bool, typer.Option(help="a small part: whether it works")] = False,
) -> None:
    """Rank all items for each question, by our model and by others."""
    console, printer = Console(stderr=True), Console(width=WIDTH)
    mapping = mapping_from_options(maps or [], types or [])
    log = load_log(DataSource(default_cache_dir(), data, mapping))
    settings = TrainerSettings(threads=threads, max_seconds=UNHURRIED_S)
    if quick:
        log, settings = log.head(QUICK_EVENTS), settings.model_copy(update={"epochs": 1})
    chosen = (peer or list(Peer)) if peers else []
    budget, rule = Budget(max_epochs=max_epochs, repeats=repeats), rules(ties, repeats)
    models = ABLATIONS if ablations else {}
    rows: dict[str, Rows] = {}
    with kept_or_temporary(work) as kept:
        for each in protocol or list(Protocol):
            run = start(log, each, ties, repeats, console)
            theirs = run.counting() | run.peers(chosen, budget, kept)
            rows[each.value] = theirs | run.ours(seeds, settings, models)
            show(printer, f"{each}, {len(run.test.targets()[0])} targets; {rule}", rows[each.value])
    found = summary(rule, rows, len(chosen)) | {"seeds": seeds}
    for line in verdicts(found):
        printer.print(line, highlight=False)
    if report:
        write_report(report, "quality", found)
    if chart:
        draw(rows, rule, chart)


def show(printer: Console, title: str, rows: Rows) -> None:
    """Print one protocol's tables."""
    printer.print(table(title, rows))
    differences = difference_table(rows)
    if differences:
        printer.print(differences)


if __name__ == "__main__":
    run_benchmark(main)
