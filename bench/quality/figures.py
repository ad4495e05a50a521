"""Ranks to figures: of all targets, and of the groups that matter, with intervals. M targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bench.quality.questions import TRAINING, Answers, Bools, Floats, Ints, Questions
from trainer.metrics import TOP, interval, ndcg

DEEP_CUT = 50
RETURN_S = 3600
RARE = 5

Row = dict[str, Any]


def groups(asked: Questions) -> dict[str, Bools]:
    """Which targets belong to each group, bool[M]."""
    takes = asked.takes
    question, rows = asked.targets()
    first = asked.firsts == asked.starts
    before = takes.times_s[np.maximum(asked.firsts - 1, 0)]
    back = ~first & (asked.times_s - before > RETURN_S)
    learned = np.unique(takes.users[takes.part == TRAINING])
    counts = takes.training_counts()[takes.items[rows]]
    return {
        "return_visits": back[question],
        "first_requests": first[question],
        "new_people": ~np.isin(takes.users[rows], learned),
        "new_items": counts == 0,
        "rare_items": counts < RARE,
    }


def figures(asked: Questions, answers: Answers) -> Row:
    """Hit rates, NDCG with its 95 % interval, coverage, and the groups.

    One right item a target: its NDCG@10 is 1 / log2(rank + 2), 0 from rank 10 on. Coverage is the
    share of the log's items in anyone's best 10.
    """
    ranks = answers.ranks
    found = _summarize(ranks) | {"coverage": float(answers.shown.mean())}
    people = asked.takes.users[asked.targets()[1]]
    found["ndcg_at_10_interval"] = interval(gains(ranks), people)
    found["groups"] = {
        name: _summarize(ranks[chosen]) | {"targets": int(chosen.sum())}
        for name, chosen in groups(asked).items()
    }
    return found


def gains(ranks: Floats) -> Floats:
    """NDCG@10 of each target, float[M]."""
    found: Floats = ndcg(torch.from_numpy(ranks)).numpy()
    return found


def _summarize(ranks: Floats) -> Row:
    if not len(ranks):
        return {}
    return {
        "hr_at_10": float((ranks < TOP).mean()),
        "ndcg_at_10": float(gains(ranks).mean()),
        "hr_at_50": float((ranks < DEEP_CUT).mean()),
    }


def with_differences(asked: Questions, row: Row, lost: Floats) -> Row:
    """An ablation's row with the whole model's NDCG@10 minus its own, of all targets and of groups.

    Where the 95 % interval of the difference is above 0, the part earns its place.

    Args:
        lost: the difference at each target, float[M].
    """
    people = asked.takes.users[asked.targets()[1]]
    of_groups = {
        name: row["groups"][name] | _difference(lost[chosen], people[chosen])
        for name, chosen in groups(asked).items()
    }
    return row | _difference(lost, people) | {"groups": of_groups}


def _difference(lost: Floats, people: Ints) -> Row:
    if not len(lost):
        return {}
    return {"difference": float(lost.mean()), "difference_interval": interval(lost, people)}


def mean(rows: list[Row]) -> Row:
    """The mean of several seeds' figures."""
    first = rows[0]
    return {name: _mean([row[name] for row in rows]) for name in first}


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return np.mean(values, axis=0).tolist()
