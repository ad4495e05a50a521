"""What the quality benchmark asks, and how a right answer's rank is counted.

E takes (the first event of a person with an item; where items may be taken again, every one),
Q questions, M targets (takes that are asked for), N items, K = the length of a list.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch

from trainer.datasets import Log
from trainer.metrics import CUTOFF
from trainer.network.scoring import rank_targets

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TRAINING, VALIDATION, TEST = 0, 1, 2
MISSED = np.inf


class Protocol(StrEnum):
    """How the log is split; bench/README.md says how."""

    LEAVE_ONE_OUT = "leave_one_out"
    GLOBAL_TIME = "global_time"


class Ties(StrEnum):
    """What order takes of one person in the same second have: none, or that of the log's file.

    Strict, a question is such a second; else each take is one.
    """

    STRICT = "strict"
    FILE = "file"


def rules(ties: Ties, repeats: bool) -> str:
    """What decides a figure beside the model, in a line: every table has it."""
    order = {
        Ties.STRICT: "history lies strictly before; the same second holds no wrong answers",
        Ties.FILE: "inside a second the order of the log's file",
    }[ties]
    again = "items return" if repeats else "taken items left out"
    return f"ties {ties}: {order}; {again}"


@dataclass(frozen=True)
class Takes:
    """A person's takes together, ascending in time, inside a second as in the file: int64[E] each.

    `users` and `items` count from 0; `user_ids` and `item_ids` are their names; `part` is 0 for
    training, 1 for validation, 2 for the test. With `repeats` an item may be taken again.
    """

    users: Ints
    items: Ints
    times_s: Ints
    part: Ints
    user_ids: list[str]
    item_ids: list[str]
    protocol: Protocol = Protocol.GLOBAL_TIME
    repeats: bool = False

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
    """Seconds, or single takes, with something to guess, int64[Q] each: rows of `takes`.

    The person's takes begin at `starts`; those of the question are `firsts` up to before `ends`.
    """

    takes: Takes
    part: int
    starts: Ints
    firsts: Ints
    ends: Ints
    ties: Ties = Ties.STRICT

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def times_s(self) -> Ints:
        """When each is asked, int64[Q]."""
        return self.takes.times_s[self.firsts]

    def history(self, question: int) -> Ints:
        """The items taken before, oldest first."""
        return self.takes.items[self.starts[question] : self.firsts[question]]

    def excluded_items(self, question: int) -> Ints:
        """The items that cannot be recommended any more: what was taken, unless items return."""
        first = self.firsts[question]
        start = first if self.takes.repeats else self.starts[question]
        return self.takes.items[start:first]

    def unranked_items(self, question: int) -> Ints:
        """The items that are no wrong answers: those, and what is taken in the question itself."""
        own = self.takes.items[self.firsts[question] : self.ends[question]]
        return np.concatenate([self.excluded_items(question), own])

    def targets(self) -> tuple[Ints, Ints]:
        """The question of each target, and its row of `takes`: int64[M] each."""
        sizes = self.ends - self.firsts
        question = np.repeat(np.arange(len(self)), sizes)
        before = np.cumsum(sizes) - sizes
        rows = np.arange(sizes.sum()) - np.repeat(before, sizes) + np.repeat(self.firsts, sizes)
        asked = self.takes.part[rows] == self.part
        return question[asked], rows[asked]


def takes_of(log: Log, protocol: Protocol, repeats: bool = False) -> Takes:
    """The first event of each person with each item, split by the protocol.

    Args:
        repeats: every event is a take, but an item counts once a second: a purchase is often
            logged beside its click.
    """
    seen: dict[tuple[str, str, int], int] = {}
    for event in log.events:
        time_s = event.timestamp // 1000
        seen.setdefault((event.user_id, event.item_id, time_s if repeats else 0), time_s)
    names = [np.array(part) for part in zip(*((user, item) for user, item, _ in seen), strict=True)]
    user_ids, users = np.unique(names[0], return_inverse=True)
    item_ids, items = np.unique(names[1], return_inverse=True)
    times = np.fromiter(seen.values(), np.int64, len(seen))
    order = np.lexsort((times, users))
    users, items, times = users[order], items[order], times[order]
    return Takes(
        users=users,
        items=items,
        times_s=times,
        part=_split_by_person(users)
        if protocol is Protocol.LEAVE_ONE_OUT
        else _split_by_time(times),
        user_ids=user_ids.tolist(),
        item_ids=item_ids.tolist(),
        protocol=protocol,
        repeats=repeats,
    )


def _split_by_time(times_s: Ints) -> Ints:
    cuts = np.quantile(times_s, (0.8, 0.9))
    return np.searchsorted(cuts, times_s, side="right").astype(np.int64)


def _split_by_person(users: Ints) -> Ints:
    """The last two of each person; a person with fewer than three is all training."""
    ends = np.searchsorted(users, users, side="right")
    many = ends - np.searchsorted(users, users, side="left") >= 3
    left = ends - np.arange(len(users))
    part: Ints = np.where(many & (left == 1), TEST, np.where(many & (left == 2), VALIDATION, 0))
    return part


def questions(takes: Takes, part: int, ties: Ties = Ties.STRICT) -> Questions:
    """The seconds in which something of this part was taken; by `Ties.FILE`, the takes."""
    change = (np.diff(takes.users) != 0) | (np.diff(takes.times_s) != 0) | (ties is Ties.FILE)
    firsts = np.flatnonzero(np.concatenate([[True], change]))
    ends = np.append(firsts[1:], len(takes.users))
    before = np.concatenate([[0], np.cumsum(takes.part == part)])
    asked = before[ends] > before[firsts]
    starts = takes.starts[firsts[asked]]
    return Questions(takes, part, starts, firsts[asked], ends[asked], ties)


def ranks_by_score(asked: Questions, at: int, scores: Floats) -> Floats:
    """How many items stand before each target of some questions, a tie counting half: float[m].

    Args:
        at: the first of the questions.
        scores: float[q, N], for this and the following; -inf where the method has no say.
    """
    hidden = np.zeros(scores.shape, np.bool_)
    for row in range(len(scores)):
        hidden[row, asked.unranked_items(at + row)] = True
    question, rows = asked.targets()
    chosen = (question >= at) & (question < at + len(scores))
    question, wanted = question[chosen] - at, asked.takes.items[rows[chosen]]
    ranks = rank_targets(*map(torch.from_numpy, (scores, question, wanted, hidden)))
    return ranks.double().numpy()


def ranks_in_lists(asked: Questions, top: Ints) -> Floats:
    """The same from each question's best items, best first, -1 where there are no more.

    Args:
        top: int64[Q, K]; what is not in it is missed.
    """
    question, rows = asked.targets()
    wanted = asked.takes.items[rows]
    ranks = np.full(len(rows), MISSED)
    for target, (at, item) in enumerate(zip(question, wanted, strict=True)):
        place = np.flatnonzero(top[at] == item)
        if len(place):
            # A peer is told of the newest history only: it may name what was taken long ago.
            ranks[target] = (~np.isin(top[at, : place[0]], asked.unranked_items(at))).sum()
    return ranks


@dataclass(frozen=True)
class Answers:
    """Ranks of the targets, float[M], and the items in anyone's best 10, bool[N]."""

    ranks: Floats
    shown: Bools


def answers_by_score(asked: Questions, chunks: Iterable[Floats]) -> Answers:
    """Answers of a method that scores every item: float[q, N] of some questions at a time."""
    ranks, at = [], 0
    shown = np.zeros(len(asked.takes.item_ids), bool)
    for chunk in chunks:
        ranks.append(ranks_by_score(asked, at, chunk))
        shown[_best_items(asked, at, chunk)] = True
        at += len(chunk)
    return Answers(np.concatenate(ranks), shown)


def _best_items(asked: Questions, at: int, scores: Floats) -> Ints:
    """The items in the best 10 of some questions."""
    open_to = scores.copy()
    for row in range(len(scores)):
        open_to[row, asked.excluded_items(at + row)] = -np.inf
    count = min(CUTOFF, open_to.shape[1])
    best = np.argpartition(-open_to, count - 1, axis=1)[:, :count]
    has_a_say = np.take_along_axis(open_to, best, axis=1) > -np.inf
    return best[has_a_say]


def answers_in_lists(asked: Questions, top: Ints) -> Answers:
    """Answers of a method that gives lists, best first, -1 where there are no more: int64[Q, K]."""
    shown = np.zeros(len(asked.takes.item_ids), bool)
    for question, listed in enumerate(top):
        still_open = listed[(listed >= 0) & ~np.isin(listed, asked.excluded_items(question))]
        shown[still_open[:CUTOFF]] = True
    return Answers(ranks_in_lists(asked, top), shown)
