"""The quality benchmark's tables and the sums of its report, from rows of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.table import Table

from bench.harness.tables import figures_table
from bench.quality.figures import Row

OURS = "Headwater"
# The larger size: so many models whose scores are averaged.
MEMBERS = 6
LARGE = f"{OURS}, {MEMBERS} members"
# How the rows of models from RecTools end.
LEARNED_PEER = "(RecTools)"
Rows = Mapping[str, Row]

_GROUPS = {
    "returns": ("return_visits", "ndcg_at_10"),
    "first": ("first_requests", "ndcg_at_10"),
    "new people": ("new_people", "ndcg_at_10"),
    "HR@50 new items": ("new_items", "hr_at_50"),
    "rare items": ("rare_items", "ndcg_at_10"),
}


def table(title: str, rows: Rows) -> Table:
    """One protocol's rows."""
    columns = ("NDCG@10", "95 %", "HR@10", "HR@50", "coverage", *_GROUPS)
    drawn = figures_table(title, "method", columns)
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


def difference_table(rows: Rows) -> Table | None:
    """The whole model minus each ablation; None without one."""
    parts = {name: row for name, row in rows.items() if "difference" in row}
    if not parts:
        return None
    groups = next(iter(parts.values()))["groups"]
    title = f"{OURS} minus, NDCG@10 [95 %]; * above 0"
    drawn = figures_table(title, "method", (one.replace("_", " ") for one in ("all", *groups)))
    for name, row in parts.items():
        drawn.add_row(name, *map(_difference, (row, *(row["groups"][one] for one in groups))))
    return drawn


def _difference(found: Row) -> str:
    if "difference" not in found:
        return "-"
    low, high = found["difference_interval"]
    return f"{found['difference']:+.4f} [{low:+.3f} {high:+.3f}]{'*' if low > 0 else ' '}"


def ratios(rows: Mapping[str, Rows]) -> dict[str, dict[str, float]]:
    """Ours over the best of all others, by protocol: of all targets, and of return visits.

    Of our two sizes the one that was better on held-out events; the default size apart. On return
    visits the best is whoever is best at them. Apart too: beside the models alone that were tuned
    on a grid. A protocol without any has no ratio.
    """

    def returns(row: Row) -> float:
        return float(row["groups"]["return_visits"].get("ndcg_at_10", 0))

    def every(row: Row) -> float:
        return float(row["ndcg_at_10"])

    chosen = {protocol: chosen_size(of) for protocol, of in rows.items()}
    default = dict.fromkeys(rows, OURS)
    learned = {protocol: _learned(of) for protocol, of in rows.items()}
    return {
        "ratio_to_best_learned_peer": _ratios(learned, chosen, every),
        "learned_ratio_on_return_visits": _ratios(learned, chosen, returns),
        "ratio_to_best_peer": _ratios(rows, chosen, every),
        "ratio_on_return_visits": _ratios(rows, chosen, returns),
        "default_ratio_to_best_peer": _ratios(rows, default, every),
        "default_ratio_on_return_visits": _ratios(rows, default, returns),
    }


def _learned(rows: Rows) -> Rows:
    """Ours, and of the others those that learn, not those that count."""
    return {
        name: row
        for name, row in rows.items()
        if name.startswith(OURS) or name.endswith(LEARNED_PEER)
    }


def chosen_size(rows: Rows) -> str:
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
        "size": {protocol: chosen_size(of) for protocol, of in rows.items()},
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
