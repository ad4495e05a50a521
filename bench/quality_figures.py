"""Ranks to figures: of all targets, and of the groups that matter, with intervals. M targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from rich.table import Table

from bench.questions import TRAINING, Bools, Floats, Questions
from trainer.figures import interval
from trainer.scoring import TOP, ndcg

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


def figures(asked: Questions, ranks: Floats) -> Row:
    """Hit rates, NDCG with its 95 % interval, and the groups.

    One right item a target: its NDCG@10 is 1 / log2(rank + 2), 0 from rank 10 on.
    """
    found = _plain(ranks)
    people = asked.takes.users[asked.targets()[1]]
    found["ndcg_at_10_interval"] = interval(gains(ranks), people)
    found["groups"] = {
        name: _plain(ranks[chosen]) | {"targets": int(chosen.sum())}
        for name, chosen in groups(asked).items()
    }
    return found


def gains(ranks: Floats) -> Floats:
    """NDCG@10 of each target, float[M]."""
    found: Floats = ndcg(torch.from_numpy(ranks)).numpy()
    return found


def _plain(ranks: Floats) -> Row:
    if not len(ranks):
        return {}
    return {
        "hr_at_10": float((ranks < TOP).mean()),
        "ndcg_at_10": float(gains(ranks).mean()),
        "hr_at_50": float((ranks < DEEP_CUT).mean()),
    }


def mean(rows: list[Row]) -> Row:
    """The mean of several seeds' figures."""
    first = rows[0]
    return {name: _mean([row[name] for row in rows]) for name in first}


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return np.mean(values, axis=0).tolist()


def table(title: str, rows: Mapping[str, Row]) -> Table:
    """One protocol's rows."""
    columns = ("NDCG@10", "95 %", "HR@10", "HR@50")
    by_group = ("returns", "first", "new people", "HR@50 new items", "rare items")
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("method")
    for column in (*columns, *by_group):
        drawn.add_column(column, justify="right")
    for name, row in rows.items():
        low, high = row["ndcg_at_10_interval"]
        of = row["groups"]
        drawn.add_row(
            name,
            f"{row['ndcg_at_10']:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{row['hr_at_10']:.4f}",
            f"{row['hr_at_50']:.3f}",
            *(_figure(of[g], "ndcg_at_10") for g in ("return_visits", "first_requests")),
            _figure(of["new_people"], "ndcg_at_10"),
            _figure(of["new_items"], "hr_at_50"),
            _figure(of["rare_items"], "ndcg_at_10"),
        )
    return drawn


def _figure(group: Row, name: str) -> str:
    return f"{group[name]:.3f}" if name in group else "-"
