"""Model quality beside peers: same split, same questions, same rule for ties, in one run.

uv run python -m bench.quality
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from bench.counting import Method, methods
from bench.peer_runs import Budget, Interactions, Peer, Request, tune, write_input
from bench.quality_figures import Row, figures, gains, mean, table
from bench.quality_ours import scores, train_ours
from bench.questions import (
    TEST,
    TRAINING,
    VALIDATION,
    Floats,
    Protocol,
    Questions,
    Takes,
    questions,
    ranks_by_score,
    ranks_in_lists,
    takes_of,
)
from bench.report import run_benchmark, write_report
from deploy.settings import default_cache_dir
from features.rows import Layout
from features.settings import FeatureSettings
from trainer.data import DataSource, Log, load_log
from trainer.language import language_model
from trainer.settings import TrainerSettings

TIES = "strict: history is what lies strictly before; the same second holds no wrong answers"
OURS = "Headwater"
WIDTH = 132
# Without one part of the model each.
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    OURS: {},
    f"{OURS} without text": {"language_model": ""},
}


@dataclass(frozen=True)
class Run:
    """One protocol on one log."""

    log: Log
    protocol: Protocol
    takes: Takes
    validation: Questions
    test: Questions
    console: Console

    def counting(self) -> dict[str, Row]:
        """The methods that count, each with the variant that validation chose."""
        live = self.protocol is Protocol.GLOBAL_TIME
        return {
            name: figures(self.test, _ranks(self._chosen(name, variants), self.test))
            for name, variants in methods(self.takes, live).items()
        }

    def _chosen(self, name: str, variants: Sequence[Method]) -> Method:
        if len(variants) == 1:
            return variants[0]
        found = [gains(_ranks(one, self.validation)).mean() for one in variants]
        best = int(np.argmax(found))
        self.say(f"{name}: variant {best + 1} of {len(variants)}, validation {found[best]:.4f}")
        return variants[best]

    def ours(self, seeds: int, settings: TrainerSettings) -> dict[str, Row]:
        """Our model and its ablations, the mean of the seeds."""
        layout = Layout(FeatureSettings())
        rows = {}
        for name, change in ABLATIONS.items():
            changed = settings.model_copy(update=change)
            reader = language_model(changed.language_model, default_cache_dir())
            found = []
            for seed in range(seeds):
                wanted = changed.model_copy(update={"seed": settings.seed + seed})
                ours = train_ours(self.log, self.takes, self.protocol, layout, wanted, reader)
                found.append(figures(self.test, _ranked(scores(ours, self.test), self.test)))
                self.say(f"{name}, seed {seed + 1}: {found[-1]['ndcg_at_10']:.4f}")
            rows[name] = mean(found)
        return rows

    def peers(self, chosen: Sequence[Peer], budget: Budget, work: Path) -> dict[str, Row]:
        """Peers from RecTools, each tuned over the same grid.

        Args:
            work: where input and runs are kept; finished runs of the same recipe are taken up.
        """
        if not chosen:
            return {}
        folder = work / self.protocol
        self._write_input(folder)
        found = {peer: tune(folder, peer, budget, self.say) for peer in chosen}
        return {
            f"{peer} (RecTools)": figures(self.test, ranks_in_lists(self.test, best.top("test")))
            for peer, best in found.items()
        }

    def _write_input(self, folder: Path) -> None:
        learned = self.takes.part == TRAINING
        columns = (self.takes.users, self.takes.items, self.takes.times_s)
        train = Interactions(*(column[learned] for column in columns))
        write_input(folder, train, _requests(self.validation), _requests(self.test))

    def say(self, text: str) -> None:
        """Tell what is going on."""
        self.console.print(f"{self.protocol}: {text}", highlight=False)


def _ranks(method: Method, asked: Questions) -> Floats:
    return _ranked(method(asked), asked)


def _ranked(chunks: Any, asked: Questions) -> Floats:
    found, at = [], 0
    for chunk in chunks:
        found.append(ranks_by_score(asked, at, chunk))
        at += len(chunk)
    return np.concatenate(found)


def _requests(asked: Questions) -> list[Request]:
    takes, (question, rows) = asked.takes, asked.targets()
    targets = np.split(takes.items[rows], np.flatnonzero(np.diff(question)) + 1)
    spans = [slice(a, b) for a, b in zip(asked.starts, asked.firsts, strict=True)]
    return [
        Request(int(time_s), takes.items[span], takes.times_s[span], wanted)
        for time_s, span, wanted in zip(asked.times_s, spans, targets, strict=True)
    ]


def start(log: Log, protocol: Protocol, console: Console) -> Run:
    """Split a log."""
    takes = takes_of(log, protocol)
    validation, test = (questions(takes, part) for part in (VALIDATION, TEST))
    return Run(log, protocol, takes, validation, test, console)


@contextmanager
def folder_for(work: Path | None) -> Iterator[Path]:
    """Where peers work: what is asked for, or a folder that is gone afterwards."""
    if work:
        yield work
    else:
        with tempfile.TemporaryDirectory(prefix="headwater-peers-") as folder:
            yield Path(folder)


def main(
    data: Annotated[
        Path | None, typer.Option(help="a log; MovieLens-100K if none is given")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    protocol: Annotated[
        list[Protocol] | None, typer.Option(help="only this one; may be repeated")
    ] = None,
    peer: Annotated[
        list[Peer] | None, typer.Option(help="only these of RecTools; may be repeated")
    ] = None,
    peers: Annotated[bool, typer.Option(help="tune peers of RecTools: hours")] = True,
    seeds: Annotated[int, typer.Option(help="of our model; figures are their mean", min=1)] = 3,
    max_epochs: Annotated[int, typer.Option(help="of a peer", min=1)] = Budget().max_epochs,
    work: Annotated[
        Path | None, typer.Option(help="keep the peers' runs here, and take up finished ones")
    ] = None,
    quick: Annotated[bool, typer.Option(help="a small part: whether it works")] = False,
) -> None:
    """Rank all items for each question, by our model and by others."""
    console, printer = Console(stderr=True), Console(width=WIDTH)
    log = load_log(DataSource(default_cache_dir(), data))
    settings = TrainerSettings()
    if quick:
        log, settings = log.head(8_000), settings.model_copy(update={"epochs": 1})
    chosen = (peer or list(Peer)) if peers else []
    budget = Budget(max_epochs=max_epochs)
    rows: dict[str, dict[str, Row]] = {}
    with folder_for(work) as kept:
        for each in protocol or list(Protocol):
            run = start(log, each, console)
            theirs = run.counting() | run.peers(chosen, budget, kept)
            rows[each.value] = theirs | run.ours(seeds, settings)
            title = f"{each}, {len(run.test.targets()[0])} targets"
            printer.print(table(title, rows[each.value]))
    found = summary(rows, len(chosen)) | {"seeds": seeds}
    for name, ratio in found["ratio_to_best_peer"].items():
        printer.print(f"{name}: NDCG@10 {ratio:.2f} times the best peer's", highlight=False)
    printer.print(f"ties {TIES}", highlight=False)
    if report:
        write_report(report, "quality", found)


def summary(rows: Mapping[str, Mapping[str, Row]], learned_peers: int) -> dict[str, Any]:
    """What the report holds. `learned_peers` is 0 where only methods that count were run."""
    return {
        "ties": TIES,
        "learned_peers": learned_peers,
        "ratio_to_best_peer": {name: _ratio(found) for name, found in rows.items()},
        "rows": {name: dict(found) for name, found in rows.items()},
    }


def _ratio(rows: Mapping[str, Row]) -> float:
    best = max(row["ndcg_at_10"] for name, row in rows.items() if not name.startswith(OURS))
    return float(rows[OURS]["ndcg_at_10"] / best)


if __name__ == "__main__":
    run_benchmark(main)
