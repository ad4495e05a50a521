"""How fast each form is, by history and batch, and how far above the floor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.model.floor import Ceilings, work
from bench.model.forms import Form
from bench.model.progress import Progress
from bench.model.shapes import Sizes
from bench.model.timing import timed
from trainer.export.recommender import ScoringGraph

Floors = dict[tuple[int, int, bool], float]


def floors_of(recommender: ScoringGraph, sizes: Sizes, found: Ceilings) -> Floors:
    """Milliseconds by history, batch, and whether products are in half precision."""
    return {
        (history, batch, half): needed.floor_ms(found, half)
        for history, batch, feeds in sizes.cells()
        for needed in (work(recommender, sizes.schema, feeds),)
        for half in (False, True)
    }


def measure(progress: Progress, form: Form, sizes: Sizes, floors: Floors) -> None:
    """Time a form on requests of all sizes, as far as time allows."""
    with progress.part(form.name):
        calls = form.calls()
        rates: dict[str, Any] = progress.figures.setdefault("forms", {}).setdefault(form.name, {})
        for history, batch, feeds in sizes.cells():
            if progress.late:
                raise TimeoutError(f"time was up before history {history}, batch {batch}")
            one = timed(calls(feeds), form.gpu)
            floor_ms = floors.get((history, batch, form.half)) if form.gpu else None
            rates.setdefault(str(history), {})[str(batch)] = {
                "users_per_second": 1e3 * batch / one.run_ms,
                "served_users_per_second": 1e3 * batch / one.served_ms,
                **asdict(one),
                **({"floor_ms": floor_ms, "over_floor": one.run_ms / floor_ms} if floor_ms else {}),
            }
