"""What users take together: neighbours of items within sessions, and factors of who takes what.

E events learned from, N items, K neighbours, C factors, U pairs of events, S folds of the users.

Both are counted from the same events that the network learns from. A network that saw counts with
its own targets in them would learn to trust what it cannot have when it serves. So users are dealt
into folds, anew for each epoch, and a fold is shown the counts of all the others
(cross-fitting; V. Chernozhukov et al., "Double/debiased machine learning", 2018, section 3).
The version takes the counts of all with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.schema import Float32Array, Int64Array
from features.settings import DAY_MS, HOUR_MS
from trainer.examples.replay import BoolArray

# Two events of a person belong together when few others and little time lie between them.
NEARBY_EVENTS, NEARBY_MS = 10, HOUR_MS
# Added to each item's count: what is taken twice, both times together, is no sure thing.
SMOOTHING = 3.0
# What was taken together this long ago counts half.
HALF_LIFE_MS = 365 * DAY_MS
# The most frequent items have neighbours: a table of all pairs is counted in memory.
MAX_ITEMS = 8192
FOLDS = 8
_ITERATIONS = 2


@dataclass(frozen=True)
class InteractionColumns:
    """The events learned from, a person's together and ascending in time: int64[E] each.

    `people` are any numbers; `items` are indices of a vocabulary.
    """

    users: Int64Array
    items: Int64Array
    times_ms: Int64Array


@dataclass(frozen=True)
class CooccurrenceTables:
    """What users take together, of all users or, with S first, of all but each fold of them.

    Attributes:
        neighbours: int32[..., N, K], the items most often taken in the same sessions.
        weights: float32[..., N, K], their cosines.
        factors: float32[..., N, C]; products are about the cosines of who took the items.
    """

    neighbours: Tensor
    weights: Tensor
    factors: Tensor

    def fold(self, number: int) -> "CooccurrenceTables":
        """Those of all but one fold."""
        return CooccurrenceTables(
            self.neighbours[number], self.weights[number], self.factors[number]
        )


class CooccurrenceCounter:
    """Counts what is taken together; `numbers` are those of the people, each once, ascending.

    Args:
        items: N.
        neighbours: K.
        factors: C.
    """

    def __init__(
        self, taken: InteractionColumns, items: int, neighbours: int, factors: int
    ) -> None:
        self.taken = taken
        self.items = items
        self.frequent = _frequent_items(taken.items, items)
        self.neighbours = min(neighbours, len(self.frequent))
        self.factors = factors
        self.numbers, people = np.unique(taken.users, return_inverse=True)
        self.users = people.astype(np.int64)
        left_ms = taken.times_ms.max(initial=0) - taken.times_ms
        self.worth = np.exp2(-left_ms / HALF_LIFE_MS)
        # Where each item is in the table of pairs.
        rows = np.full(items, -1, np.int64)
        rows[self.frequent] = np.arange(len(self.frequent))
        places = rows[taken.items]
        earlier, self.later = _find_nearby_pairs(taken, places >= 0)
        # Where each pair is counted.
        self.cells = places[earlier] * len(self.frequent) + places[self.later]

    def count_all(self) -> CooccurrenceTables:
        """The tables that a version takes with it."""
        return self._count_without(np.zeros(len(self.users), np.bool_))

    def draw_folds(self, generator: np.random.Generator) -> tuple[Int64Array, CooccurrenceTables]:
        """Users dealt into folds, and what is known without each.

        Returns:
            int64[users], the fold of each of `numbers`; the tables without each.
        """
        dealt = generator.integers(0, FOLDS, int(self.users.max(initial=-1)) + 1)
        known = [self._count_without(dealt[self.users] == share) for share in range(FOLDS)]
        return dealt, CooccurrenceTables(
            torch.stack([one.neighbours for one in known]),
            torch.stack([one.weights for one in known]),
            torch.stack([one.factors for one in known]),
        )

    def _count_without(self, hidden: BoolArray) -> CooccurrenceTables:
        """Args: hidden: bool[E], events that do not count."""
        worth = self.worth * ~hidden
        counts = np.bincount(self.taken.items, worth, self.items).astype(np.float32)
        scale = torch.from_numpy(1 / np.sqrt(counts + SMOOTHING)).float()
        neighbours, weights = self._neighbours(~hidden, scale)
        return CooccurrenceTables(neighbours, weights, self._factors(worth, scale))

    def _neighbours(self, counts: BoolArray, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Args: counts: bool[E], the events that do. Both of a pair are one person's."""
        size, frequent = len(self.frequent), torch.from_numpy(self.frequent)
        chosen = counts[self.later]
        pairs = np.bincount(self.cells[chosen], self.worth[self.later[chosen]], size * size)
        ordered = torch.from_numpy(pairs).float().view(size, size)
        scale = scale[frequent]
        cosines = (ordered + ordered.T).mul_(scale[:, None]).mul_(scale)
        best = cosines.topk(self.neighbours, dim=1)
        neighbours = torch.zeros((self.items, self.neighbours), dtype=torch.int32)
        weights = torch.zeros((self.items, self.neighbours))
        neighbours[frequent], weights[frequent] = frequent[best.indices].int(), best.values
        return neighbours, weights

    def _factors(self, worth: Float32Array, scale: Tensor) -> Tensor:
        """The largest factors of who took what, each item scaled to its length: float[N, C].

        N. Halko, P. Martinsson, J. Tropp: "Finding structure with randomness", SIAM Review 2011,
        algorithm 4.4, of a sparse matrix.
        """
        width = min(self.factors, self.items)
        items = torch.from_numpy(self.taken.items)
        values = torch.from_numpy(np.sqrt(worth)).float() * scale[items]
        places = torch.stack([torch.from_numpy(self.users), items])
        shape = (int(self.users.max(initial=-1)) + 1, self.items)
        matrix = torch.sparse_coo_tensor(places, values, shape, check_invariants=False).coalesce()
        basis = torch.randn(self.items, width)
        for _ in range(_ITERATIONS + 1):
            basis = torch.linalg.qr(matrix.T @ (matrix @ basis)).Q
        _, values, directions = torch.linalg.svd(matrix @ basis, full_matrices=False)
        found = torch.zeros(self.items, self.factors)
        found[:, : len(values)] = basis @ (directions.T * values)
        return found


def _frequent_items(taken: Int64Array, items: int) -> Int64Array:
    """The items that can have neighbours, ascending: int64[at most `MAX_ITEMS`]."""
    counts = np.bincount(taken, minlength=items)
    return np.sort(np.argsort(-counts, kind="stable")[:MAX_ITEMS])


def _find_nearby_pairs(
    taken: InteractionColumns, counted: BoolArray
) -> tuple[Int64Array, Int64Array]:
    """Pairs of events of a person, close in order and time: int64[U] each, earlier first.

    Args:
        counted: bool[E], events whose items are frequent.
    """
    earlier, later = [], []
    places = np.arange(len(taken.items))
    for distance in range(1, NEARBY_EVENTS + 1):
        first, second = places[:-distance], places[distance:]
        near = (taken.users[first] == taken.users[second]) & (
            taken.times_ms[second] - taken.times_ms[first] < NEARBY_MS
        )
        near &= counted[first] & counted[second]
        near &= taken.items[first] != taken.items[second]
        earlier.append(first[near])
        later.append(second[near])
    return np.concatenate(earlier), np.concatenate(later)
