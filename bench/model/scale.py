"""How fast the best items of a catalogue are found on a CPU as it grows, and how many of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.model.calls import SessionCall
from bench.model.progress import Progress
from bench.model.shortlist import (
    Catalogue,
    Exact,
    Shortlist,
    answered,
    grown,
    index_of,
    recalls,
    write,
    write_int8,
)
from bench.model.timing import timed
from bench.model.version import Version
from deploy.optimize.cpu import WIDTHS
from deploy.optimize.questions import BATCH
from features.inputs import IntArray
from trainer.export.likeness import Likeness
from trainer.export.onnx import open_session
from trainer.network.model import LOWEST, Requests

PEOPLE = 1024
# Blocks of 128 items that a shortlist looks at.
LOOKED_AT = (32, 64, 128)


def scale(
    progress: Progress, counts: Sequence[int], version: Version, threads: int, folder: Path
) -> None:
    """Time batches of 64 over catalogues of these sizes, in ONNX Runtime."""
    known = catalogue_of(version)
    for items in counts:
        with progress.part(f"catalogue of {items}"):
            rates = progress.figures.setdefault("catalogue", {}).setdefault(str(items), {})
            _Ways(grown(known, items), threads, folder, rates).measure()


class _Ways:
    """The ways to find the best items of one catalogue."""

    def __init__(
        self, catalogue: Catalogue, threads: int, folder: Path, rates: dict[str, Any]
    ) -> None:
        self._catalogue = catalogue
        self._people = catalogue.people[:PEOPLE].numpy()
        self._threads, self._folder, self._rates = threads, folder, rates
        self._expected: IntArray | None = None

    def measure(self) -> None:
        """All ways, the exact one first: the others are set beside it."""
        exact, int8 = self._folder / "exact-scores.onnx", self._folder / "int8-scores.onnx"
        self._written("exact", Exact(self._catalogue), exact)
        write_int8(exact, int8)
        self._note("INT8", int8)
        index = index_of(self._catalogue)
        for blocks in LOOKED_AT:
            if blocks < len(index.members):
                shortlist = Shortlist(self._catalogue, index, blocks)
                self._written(f"{blocks} blocks", shortlist, self._folder / "shortlist.onnx")

    def _written(self, name: str, module: nn.Module, path: Path) -> None:
        write(module.eval(), self._catalogue.people, path)
        self._note(name, path)

    def _note(self, name: str, graph: Path) -> None:
        """How fast a way is, and what of the best it finds."""
        session = open_session(graph, self._threads)
        one = timed(SessionCall(session, {"people": self._people[:BATCH]}), gpu=False)
        found = answered(session, self._people, BATCH)
        self._expected = found if self._expected is None else self._expected
        self._rates[name] = {
            "users_per_second": 1e3 * BATCH / one.run_ms,
            **recalls(self._expected, found),
        }


@torch.no_grad()
def catalogue_of(version: Version) -> Catalogue:
    """The items of a version of one member, and the people that it is asked about."""
    (model,) = version.recommender.model.members
    items, likeness = model.all_items(), Likeness(model, WIDTHS)
    people = []
    for feeds, _ in version.asked.batches():
        held = {name: torch.from_numpy(array) for name, array in feeds.items()}
        asked = Requests.after_all(
            held["item_indices"],
            held["event_types"],
            held["event_times_ms"],
            held["request_time_ms"],
            held["user_features"],
        )
        biases = model.biases(asked.items.shape[1], asked.newest)
        reading = model.read(asked, biases, items.vectors)
        past = likeness.of([reading], reading.related, asked.items)
        people.append(torch.cat([reading.states[:, 0], past], 1))
    # What nobody can be recommended has a bias that no item has.
    shown = items.bias > LOWEST / 2
    rows = torch.cat([items.vectors, likeness.kinds], 1)
    return Catalogue(rows[shown], items.bias[shown], torch.cat(people))
