"""Which distributions are followed for drift: of windows' events, and of recommendations."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import structlog
from headwater_client.errors import DataError
from msgspec import Struct

from deploy.monitoring.drift import MAX_BLOCKS, DriftWatch, bin_numbers
from trainer.windows.store import WindowStore

BLOCK_EVENTS = 1000
"""Events of a block of windows, at least: fewer say too little of a distribution."""

BLOCK_LISTS = 500
"""Recommendations of a block."""

_WINDOW_COLUMNS = ("type", "user_id", "item_id", "timestamp", "price", "quantity", "repeated")
_KEPT_VERSIONS = 100
log = structlog.get_logger()

CategoriesOf = Callable[[str], Sequence[str]]
"""The categories of an item by its id."""


class _ListedReason(Struct):
    kind: str = ""


class _ListedItem(Struct):
    score: float
    reason: _ListedReason | None = None


class ListScores(Struct):
    """What drift needs of a recommendation."""

    items: list[_ListedItem] = []
    model_version: str = ""
    fallback: bool = False


@dataclass
class ScoreSignals:
    """Distributions of what recommendations say: scores of each version, reasons, fallbacks."""

    watch: DriftWatch = field(default_factory=DriftWatch)
    lists: int = 0
    _blocks: dict[str, list[ListScores]] = field(default_factory=dict)
    _edges: dict[str, Any] = field(default_factory=dict)

    def add(self, said: ListScores) -> None:
        """Add a list; a block of them is compared once it is full."""
        self.lists += 1
        version = "fallback" if said.fallback else said.model_version
        for name in ("all", version) if said.items and not said.fallback else ("all",):
            block = self._blocks.setdefault(name, [])
            if len(self._blocks) > _KEPT_VERSIONS:
                del self._blocks[next(each for each in self._blocks if each not in ("all", name))]
            block.append(said)
            if len(block) == BLOCK_LISTS:
                self._compare(name, self._blocks.pop(name))

    def _compare(self, name: str, block: Sequence[ListScores]) -> None:
        if name == "all":
            answered = Counter("fallback" if each.fallback else "model" for each in block)
            self.watch.add("who answers", answered)
            return
        best = np.array([each.items[0].score for each in block])
        if name not in self._edges:
            # Tenths of the version's first lists: scores of two versions do not compare.
            self._edges[name] = np.unique(np.quantile(best, np.arange(1, 10) / 10))
            if len(self._edges) > _KEPT_VERSIONS:
                retired = next(iter(self._edges))
                del self._edges[retired]
                for each in (_name_scores(retired), _name_reasons(retired)):
                    self.watch.forget(each)
        tenths = np.searchsorted(self._edges[name], best)
        self.watch.add(_name_scores(name), _name_bins(tenths, "tenth"))
        kinds = Counter(
            each.items[0].reason.kind if each.items[0].reason else "none" for each in block
        )
        self.watch.add(_name_reasons(name), kinds)


def _name_scores(version: str) -> str:
    return f"best score, version {version}"


def _name_reasons(version: str) -> str:
    return f"reason of the first item, version {version}"


def _name_bins(bins: Any, word: str) -> Mapping[str, float]:
    return {
        f"{word} {number + 1}": float(count)
        for number, count in enumerate(np.bincount(bins).tolist())
        if count
    }


@dataclass
class FeatureSignals:
    """Distributions of what windows hold, a block of windows at a time.

    Attributes:
        windows, unreadable: how many were read, and could not be.
    """

    watch: DriftWatch = field(default_factory=DriftWatch)
    windows: int = 0
    unreadable: int = 0
    _block: dict[str, Counter[str]] = field(default_factory=dict)
    _events: int = 0
    _newest: int = 0

    def read_news(self, store: WindowStore, categories_of: CategoriesOf) -> None:
        """Read the windows since the last time, and of those of before as many as count."""
        numbers = [number for number in store.numbers() if number > self._newest]
        for number in numbers[-2 * MAX_BLOCKS :]:
            self._newest = number
            try:
                table = store.read_columns(number, _WINDOW_COLUMNS)
                self.windows += 1
            except DataError as error:
                self.unreadable += 1
                log.warning("window_unreadable", window=number, reason=str(error))
                continue
            self.add(table, categories_of)

    def add(self, table: Any, categories_of: CategoriesOf) -> None:
        """Add the rows of a window; a block is compared once it has enough of them."""
        table = table.filter(pc.invert(table["repeated"]))
        self._events += len(table)
        for name, counts in describe_features(table, categories_of).items():
            self._block.setdefault(name, Counter()).update(counts)
        if self._events >= BLOCK_EVENTS:
            for name, counts in self._block.items():
                self.watch.add(name, counts)
            self._block, self._events = {}, 0


def describe_features(table: Any, categories_of: CategoriesOf) -> dict[str, Mapping[str, float]]:
    """How the features of a window's events are distributed."""
    items, kinds = (
        {each["values"]: each["counts"] for each in pc.value_counts(table[name]).to_pylist()}
        for name in ("item_id", "type")
    )
    by_category: Counter[str] = Counter()
    for item, count in items.items():
        for category in categories_of(item):
            by_category[category] += count
    pauses = _pauses_s(table)
    numbers = {name: table[name].drop_null().to_numpy() for name in ("price", "quantity")}
    return {
        "type of event": {name: float(count) for name, count in kinds.items()},
        "category": {name: float(count) for name, count in by_category.items()},
        "seconds since the person's event before": bin_numbers(pauses),
        **{name: bin_numbers(values.astype(float)) for name, values in numbers.items()},
    }


def _pauses_s(table: Any) -> Any:
    """Between two events of a person in one window, float64[pairs]."""
    codes = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    times = table["timestamp"].to_numpy()
    order = np.lexsort((times, codes))
    same = codes[order][1:] == codes[order][:-1]
    pauses: Any = np.diff(times[order])[same] / 1000
    return pauses
