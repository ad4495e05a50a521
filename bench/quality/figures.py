"""Ranks to figures, with intervals; figures to tables, sums and a chart. M targets."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bench.harness import charts
from bench.harness.runner import make_table
from bench.quality.questions import TRAINING, Answers, Bools, Floats, Ints, Questions
from trainer.evaluation import group_events
from trainer.metrics import bootstrap_interval, ndcg, ranking_metrics

Row = dict[str, Any]


def groups(asked: Questions) -> dict[str, Bools]:
    """Which targets belong to each group, bool[M]."""
    takes = asked.takes
    question, rows = asked.targets()
    first = asked.firsts == asked.starts
    before = takes.times_s[np.maximum(asked.firsts - 1, 0)]
    learned = np.unique(takes.users[takes.part == TRAINING])
    counts = takes.training_counts()[takes.items[rows]]
    return group_events(
        first[question],
        1000 * (asked.times_s - before)[question],
        ~np.isin(takes.users[rows], learned),
        counts,
    )


def figures(asked: Questions, answers: Answers) -> Row:
    """Hit rates, NDCG with its 95 % interval, coverage, and the groups."""
    ranks = answers.ranks
    found = _summarize(ranks) | {"coverage": float(answers.shown.mean())}
    people = asked.takes.users[asked.targets()[1]]
    found["ndcg_at_10_interval"] = bootstrap_interval(ndcg(ranks), people)
    found["groups"] = {
        name: _summarize(ranks[chosen]) | {"targets": int(chosen.sum())}
        for name, chosen in groups(asked).items()
    }
    return found


def _summarize(ranks: Floats) -> Row:
    if not len(ranks):
        return {}
    metrics = asdict(ranking_metrics(ranks))
    del metrics["events"]
    return metrics


def with_differences(asked: Questions, row: Row, lost: Floats) -> Row:
    """An ablation's row with the whole model's NDCG@10 minus its own, of all targets and of groups.

    Args:
        lost: the difference at each target, float[M].
    """
    people = asked.takes.users[asked.targets()[1]]
    of_groups = {
        name: row["groups"][name] | _mean_difference(lost[chosen], people[chosen])
        for name, chosen in groups(asked).items()
    }
    return row | _mean_difference(lost, people) | {"groups": of_groups}


def _mean_difference(lost: Floats, people: Ints) -> Row:
    if not len(lost):
        return {}
    return {
        "difference": float(lost.mean()),
        "difference_interval": bootstrap_interval(lost, people),
    }


def mean(rows: list[Row]) -> Row:
    """The mean of several seeds' figures."""
    first = rows[0]
    return {name: _mean([row[name] for row in rows]) for name in first}


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return np.mean(values, axis=0).tolist()


OURS = "Headwater"
# The larger size: so many models whose scores are averaged.
MEMBERS = 6
LARGE = f"{OURS}, {MEMBERS} members"
# How the rows of models from RecTools end.
LEARNED_PEER = "(RecTools)"
Rows = Mapping[str, Row]

_LEGEND = {
    "ours": charts.BLUE,
    "a part left out": charts.LIGHT_BLUE,
    "RecTools, tuned": charts.RED,
    "counts": charts.GREY,
}
_PANEL_INCHES, _ROW_INCHES, _FRAME_INCHES = 5.0, 0.27, 1.6
# Letters of the caption that an inch holds.
_LETTERS = 12

_GROUPS = {
    "returns": ("return_visits", "ndcg_at_10"),
    "first": ("first_requests", "ndcg_at_10"),
    "new people": ("new_people", "ndcg_at_10"),
    "HR@50 new items": ("new_items", "hr_at_50"),
    "rare items": ("rare_items", "ndcg_at_10"),
}


def make_table_of_methods(title: str, rows: Rows) -> Table:
    """One protocol's rows."""
    columns = ("NDCG@10", "95 %", "HR@10", "HR@50", "coverage", *_GROUPS)
    drawn = make_table(title, "method", columns)
    for name, row in rows.items():
        low, high = row["ndcg_at_10_interval"]
        drawn.add_row(
            name,
            f"{row['ndcg_at_10']:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{row['hr_at_10']:.4f}",
            f"{row['hr_at_50']:.3f}",
            f"{row['coverage']:.2f}",
            *(_figure(row["groups"][group], figure) for group, figure in _GROUPS.values()),
        )
    return drawn


def _figure(group: Row, name: str) -> str:
    return f"{group[name]:.3f}" if name in group else "-"


def make_difference_table(rows: Rows) -> Iterator[Table]:
    """The whole model minus each ablation, if there is one."""
    parts = {name: row for name, row in rows.items() if "difference" in row}
    if not parts:
        return
    groups = next(iter(parts.values()))["groups"]
    title = f"{OURS} minus, NDCG@10 [95 %]; * above 0"
    drawn = make_table(title, "method", (one.replace("_", " ") for one in ("all", *groups)))
    for name, row in parts.items():
        drawn.add_row(name, *map(_difference, (row, *(row["groups"][one] for one in groups))))
    yield drawn


def _difference(found: Row) -> str:
    if "difference" not in found:
        return "-"
    low, high = found["difference_interval"]
    return f"{found['difference']:+.4f} [{low:+.3f} {high:+.3f}]{'*' if low > 0 else ' '}"


def ratios(rows: Mapping[str, Rows]) -> dict[str, dict[str, float]]:
    """Ours over the best of all others, by protocol; one without others has no ratio."""

    def returns(row: Row) -> float:
        return float(row["groups"]["return_visits"].get("ndcg_at_10", 0))

    def every(row: Row) -> float:
        return float(row["ndcg_at_10"])

    chosen = {protocol: choose_size(of) for protocol, of in rows.items()}
    default = dict.fromkeys(rows, OURS)
    learned = {protocol: _choose_learned(of) for protocol, of in rows.items()}
    return {
        "ratio_to_best_learned_peer": _ratios(learned, chosen, every),
        "learned_ratio_on_return_visits": _ratios(learned, chosen, returns),
        "ratio_to_best_peer": _ratios(rows, chosen, every),
        "ratio_on_return_visits": _ratios(rows, chosen, returns),
        "default_ratio_to_best_peer": _ratios(rows, default, every),
        "default_ratio_on_return_visits": _ratios(rows, default, returns),
    }


def _choose_learned(rows: Rows) -> Rows:
    """Ours, and of the others those that learn, not those that count."""
    return {
        name: row
        for name, row in rows.items()
        if name.startswith(OURS) or name.endswith(LEARNED_PEER)
    }


def choose_size(rows: Rows) -> str:
    """Which of our sizes was better on the events that training held out."""
    sizes = [name for name in (OURS, LARGE) if name in rows]
    return max(sizes, key=lambda name: rows[name]["held_out"])


def _ratios(
    rows: Mapping[str, Rows], ours: Mapping[str, str], figure: Callable[[Row], float]
) -> dict[str, float]:
    found = {}
    for protocol, of in rows.items():
        others = (figure(row) for name, row in of.items() if not name.startswith(OURS))
        if best := max(others, default=0.0):
            found[protocol] = figure(of[ours[protocol]]) / best
    return found


def summary(rules: str, rows: Mapping[str, Rows], learned_peers: int) -> dict[str, Any]:
    """What the report holds. `learned_peers` is 0 where only methods that count were run."""
    return {
        "ties": rules,
        "learned_peers": learned_peers,
        **ratios(rows),
        "size": {protocol: choose_size(of) for protocol, of in rows.items()},
        "rows": {name: dict(found) for name, found in rows.items()},
    }


def verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    """A summary's ratios in a line each: beside all others, and beside the learned peers alone."""
    for than, ratio, on_returns in (
        ("the best of all others", "ratio_to_best_peer", "ratio_on_return_visits"),
        (
            "the best learned peer",
            "ratio_to_best_learned_peer",
            "learned_ratio_on_return_visits",
        ),
    ):
        for protocol, times in found[ratio].items():
            back = found[on_returns].get(protocol, float("nan"))
            size = found["size"][protocol]
            yield f"{protocol}, {size}: NDCG@10 {times:.3f} times {than}, returns {back:.2f}"


def draw(rows: Mapping[str, Rows], rules: str) -> Figure:
    """NDCG@10 of every method with its interval, a panel a protocol."""
    names = list(next(iter(rows.values())))
    inches = (_PANEL_INCHES * len(rows) + 1, _ROW_INCHES * len(names) + _FRAME_INCHES)
    figure, panels = charts.make_panels(inches, columns=len(rows), same_y=True)
    for panel, (protocol, of) in zip(panels, rows.items(), strict=True):
        _draw_protocol(panel, protocol.replace("_", " "), of)
    charts.tidy(panels, "x", hidden=["left"])
    figure.legend(handles=_handles(panels[0]), loc="outside upper left", ncols=4, frameon=False)
    caption = f"NDCG@10, all items ranked; bars: 95 % by bootstrap over people; {rules}"
    lines = textwrap.wrap(caption, int(_LETTERS * inches[0]))
    figure.supxlabel("\n".join(lines), fontsize="small", color=charts.GREY)
    return figure


def _draw_protocol(axes: Axes, title: str, rows: Rows) -> None:
    """Its rows in their order; a light line at ours."""
    for place, (name, row) in enumerate(rows.items()):
        _draw_method(axes, place, name, row)
    axes.axvline(
        rows[OURS]["ndcg_at_10"], color=charts.BLUE, linewidth=0.7, linestyle=":", zorder=0
    )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlim(left=0)
    # The first row on top.
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.tick_params(length=0)


def _draw_method(axes: Axes, place: int, name: str, row: Row) -> None:
    low, high = row["ndcg_at_10_interval"]
    value, color = row["ndcg_at_10"], _LEGEND[_kind_of(name)]
    axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.45)
    axes.plot(value, place, "o", color=color, markersize=5)
    axes.annotate(
        f"{value:.3f}".removeprefix("0"),
        (high, place),
        (6, 0),
        textcoords="offset points",
        va="center",
        size=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _kind_of(name: str) -> str:
    if name.startswith(OURS):
        return "ours" if name in (OURS, LARGE) else "a part left out"
    return "RecTools, tuned" if name.endswith(LEARNED_PEER) else "counts"


def _handles(axes: Axes) -> list[object]:
    """One mark for each kind of method that is there."""
    used = {line.get_color() for line in axes.lines}
    return [
        axes.plot([], [], "o", color=color, label=label)[0]
        for label, color in _LEGEND.items()
        if color in used
    ]
