"""Model quality beside peers: same split, same questions, same rules, in one run.

uv run python -m bench.quality
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType

from bench.harness.runner import (
    UNHURRIED_S,
    Benchmark,
    ChartOptions,
    MappedDataOptions,
    Quick,
    Results,
    Threads,
    work_folder,
)
from bench.quality.peer_runs import Budget, Peer
from bench.quality.questions import Protocol, Ties, rules
from bench.quality.run import Ablations, start_run
from bench.quality.tables import (
    OURS,
    Rows,
    draw,
    make_difference_table,
    make_table_of_methods,
    summary,
    verdicts,
)
from trainer.settings import ModelPart, TrainerSettings

QUICK_EVENTS = 8_000
# Without one part of the model each.
ABLATIONS: Ablations = {
    **{f"{OURS} without {part}": {"ablate": frozenset({part})} for part in ModelPart},
    f"{OURS}, plain": {"ablate": frozenset(ModelPart) - {ModelPart.IDENTITY}},
}


@dataclass(frozen=True, kw_only=True)
class QualityOptions(MappedDataOptions, ChartOptions):
    """Options of `bench.quality`."""

    protocol: Annotated[
        list[Protocol] | None, typer.Option(help="only this one; may be repeated")
    ] = None
    ties: Annotated[Ties, typer.Option(help="order inside a second: none, or the file's")] = (
        Ties.STRICT
    )
    repeats: Annotated[bool, typer.Option(help="items may be taken, and recommended, again")] = (
        False
    )
    peer: Annotated[
        list[Peer] | None, typer.Option(help="only these of RecTools; may be repeated")
    ] = None
    peers: Annotated[bool, typer.Option(help="tune peers of RecTools: hours")] = True
    seeds: Annotated[int, typer.Option(help="of our model; figures are their mean", min=1)] = 3
    ablations: Annotated[bool, typer.Option(help="ours without one part each, too")] = True
    threads: Threads = 2
    max_epochs: Annotated[int, typer.Option(help="of a peer", min=1)] = Budget().max_epochs
    work: Annotated[
        Path | None, typer.Option(help="keep the peers' runs here, and take up finished ones")
    ] = None
    quick: Quick = False

    @property
    def rules(self) -> str:
        """What decides a figure beside the model."""
        return rules(self.ties, self.repeats)


def measure(options: QualityOptions, console: Console) -> Results:
    """Rank all items for each question, by our model and by others."""
    log = options.load_log()
    settings = TrainerSettings(threads=options.threads, max_seconds=UNHURRIED_S)
    if options.quick:
        log, settings = log.head(QUICK_EVENTS), settings.model_copy(update={"epochs": 1})
    chosen = (options.peer or list(Peer)) if options.peers else []
    budget = Budget(max_epochs=options.max_epochs, repeats=options.repeats)
    rows: dict[str, Rows] = {}
    shown: list[RenderableType] = []
    with work_folder(options.work) as work:
        for protocol in options.protocol or list(Protocol):
            run = start_run(log, protocol, options.ties, options.repeats, console)
            models = ABLATIONS if options.ablations else {}
            rows[protocol.value] = {
                **run.count(),
                **run.run_peers(chosen, budget, work),
                **run.train(options.seeds, settings, models),
            }
            title = f"{protocol.value}, {len(run.test.targets()[0])} targets; {options.rules}"
            shown += [
                make_table_of_methods(title, rows[protocol.value]),
                *make_difference_table(rows[protocol.value]),
            ]
    report = summary(options.rules, rows, len(chosen)) | {"seeds": options.seeds}
    return Results(report, [*shown, *verdicts(report)], partial(draw, rows, options.rules))


BENCHMARK = Benchmark("quality", QualityOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
