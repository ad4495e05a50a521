"""What the quality benchmark asks, under strict ties.

A question is one second of one person: history is what lies strictly before it, and what else the
person took in that second is no wrong answer. E takes (the first event of a person with an item),
Q questions, M targets (takes that are asked for), N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from trainer.data import Log

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TRAINING, VALIDATION, TEST = 0, 1, 2
MISSED = np.inf


class Protocol(StrEnum):
    """How the log is split.

    leave_one_out: a person's last take is the test, the one before it validation.
    global_time: the last 10 % of the takes are the test, the 10 % before them validation; weights
        are frozen, each question has its true history.
    """

    LEAVE_ONE_OUT = "leave_one_out"
    GLOBAL_TIME = "global_time"


@dataclass(frozen=True)
class Takes:
    """A person's takes together and ascending in time: int64[E] each.

    `users` and `items` count from 0; `user_ids` and `item_ids` are their names; `part` is 0 for
    training, 1 for validation, 2 for the test.
    """

    users: Ints
    items: Ints
    times_s: Ints
    part: Ints
    user_ids: list[str]
    item_ids: list[str]

    @property
    def starts(self) -> Ints:
        """Where the takes of the same person begin, int64[E]."""
        return np.searchsorted(self.users, self.users, side="left")

    def training_counts(self) -> Ints:
        """How often each item is taken in training, int64[N]."""
        learned = self.items[self.part == TRAINING]
        return np.bincount(learned, minlength=len(self.item_ids)).astype(np.int64)


@dataclass(frozen=True)
class Questions:
    """Seconds with something to guess, int64[Q] each: rows of `takes`.

    The person's takes begin at `starts`; the second's are `firsts` up to before `ends`.
    """

    takes: Takes
    part: int
    starts: Ints
    firsts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def times_s(self) -> Ints:
        """When each is asked, int64[Q]."""
        return self.takes.times_s[self.firsts]

    def history(self, question: int) -> Ints:
        """The items taken before, oldest first."""
        return self.takes.items[self.starts[question] : self.firsts[question]]

    def targets(self) -> tuple[Ints, Ints]:
        """The question of each target, and its row of `takes`: int64[M] each."""
        sizes = self.ends - self.firsts
        question = np.repeat(np.arange(len(self)), sizes)
        before = np.cumsum(sizes) - sizes
        rows = np.arange(sizes.sum()) - np.repeat(before, sizes) + np.repeat(self.firsts, sizes)
        asked = self.takes.part[rows] == self.part
        return question[asked], rows[asked]


def takes_of(log: Log, protocol: Protocol) -> Takes:
    """The first event of each person with each item, split by the protocol."""
    seen: dict[tuple[str, str], int] = {}
    for event in log.events:
        seen.setdefault((event.user_id, event.item_id), event.timestamp // 1000)
    names = [np.array(part) for part in zip(*seen, strict=True)]
    user_ids, users = np.unique(names[0], return_inverse=True)
    item_ids, items = np.unique(names[1], return_inverse=True)
    times = np.fromiter(seen.values(), np.int64, len(seen))
    order = np.lexsort((times, users))
    users, items, times = users[order], items[order], times[order]
    return Takes(
        users=users,
        items=items,
        times_s=times,
        part=_by_person(users) if protocol is Protocol.LEAVE_ONE_OUT else _by_time(times),
        user_ids=user_ids.tolist(),
        item_ids=item_ids.tolist(),
    )


def _by_time(times_s: Ints) -> Ints:
    cuts = np.quantile(times_s, (0.8, 0.9))
    return np.searchsorted(cuts, times_s, side="right").astype(np.int64)


def _by_person(users: Ints) -> Ints:
    """The last two of each person; a person with fewer than three is all training."""
    ends = np.searchsorted(users, users, side="right")
    many = ends - np.searchsorted(users, users, side="left") >= 3
    left = ends - np.arange(len(users))
    part: Ints = np.where(many & (left == 1), TEST, np.where(many & (left == 2), VALIDATION, 0))
    return part


def questions(takes: Takes, part: int) -> Questions:
    """The seconds in which something of this part was taken."""
    change = (np.diff(takes.users) != 0) | (np.diff(takes.times_s) != 0)
    firsts = np.flatnonzero(np.concatenate([[True], change]))
    ends = np.append(firsts[1:], len(takes.users))
    before = np.concatenate([[0], np.cumsum(takes.part == part)])
    asked = before[ends] > before[firsts]
    starts = takes.starts[firsts[asked]]
    return Questions(takes, part, starts, firsts[asked], ends[asked])


def ranks_by_score(asked: Questions, at: int, scores: Floats) -> Floats:
    """How many items stand before each target of some questions, a tie counting half: float[m].

    Args:
        at: the first of the questions.
        scores: float[q, N], for this and the following; -inf where the method has no say.
    """
    open_to = scores.copy()
    items = asked.takes.items
    for row in range(len(scores)):
        # Taken before, or in the same second: neither is a wrong answer.
        open_to[row, items[asked.starts[at + row] : asked.ends[at + row]]] = -np.inf
    question, rows = asked.targets()
    chosen = (question >= at) & (question < at + len(scores))
    question, wanted = question[chosen] - at, items[rows[chosen]]
    own = scores[question, wanted][:, None]
    others = open_to[question]
    ranks = (others > own).sum(1) + (others == own).sum(1) / 2
    return np.where(np.isneginf(own[:, 0]), MISSED, ranks)


def ranks_in_lists(asked: Questions, top: Ints) -> Floats:
    """The same from each question's best items, best first, -1 where there are no more.

    Args:
        top: int64[Q, K], without what was taken before; what is not in it is missed.
    """
    question, rows = asked.targets()
    wanted = asked.takes.items[rows]
    ranks = np.full(len(rows), MISSED)
    for target, (at, item) in enumerate(zip(question, wanted, strict=True)):
        place = np.flatnonzero(top[at] == item)
        if len(place):
            second = asked.takes.items[asked.firsts[at] : asked.ends[at]]
            ranks[target] = (~np.isin(top[at, : place[0]], second)).sum()
    return ranks
