"""Rollouts simulated: how often the rules promote and take back what, and after how much.

uv run python -m bench.rollout
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.harness.report import run_benchmark, write_report
from bench.rollout.chart import draw
from bench.rollout.runs import (
    ALPHA,
    MANN_WHITNEY,
    Looked,
    RolloutOutcome,
    fixed_sample,
    looked_at,
    simulated,
)
from bench.rollout.world import TICK_S, Population
from deploy.rollout import RolloutSettings
from features.rollout_messages import RolloutPhase

CHANGES = (-0.20, -0.05, 0.0, 0.05, 0.20)
# What a fixed sample is made for.
_SOUGHT = 0.05


def main(
    runs: Annotated[int, typer.Option(help="rollouts of each candidate", min=1)] = 200,
    seed: Annotated[int, typer.Option()] = 7,
    people: Annotated[int, typer.Option(min=1000)] = Population().people,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    chart: Annotated[Path | None, typer.Option(help="draw how rollouts end: SVG or PNG")] = None,
) -> None:
    """Roll out worse, equal and better versions, again and again."""
    console, rules = Console(stderr=True), RolloutSettings()
    population = Population(people=people)
    outcomes = {
        f"{change:+.2f}": [
            simulated(population, change, rules, np.random.default_rng([seed, at, run]))
            for run in track(range(runs), f"reward {change:+.0%}", console=console)
        ]
        for at, change in enumerate(CHANGES)
    }
    hours = round(rules.give_up_s / TICK_S)
    looked = [
        looked_at(population, 0.0, hours, np.random.default_rng([seed, len(CHANGES), run]))
        for run in track(range(runs), "tests looked at every hour", console=console)
    ]
    found = figures(outcomes, looked) | {
        "runs": runs,
        "seed": seed,
        "people": people,
        "rules": rules.model_dump(mode="json"),
    }
    Console().print(table(found))
    if report:
        write_report(report, "rollout", found)
    if chart:
        draw(outcomes, looked, chart)


def figures(
    outcomes: Mapping[str, Sequence[RolloutOutcome]], looked: Sequence[Looked]
) -> dict[str, Any]:
    """The report: shares of runs by how much a candidate earns, medians of what it took.

    `samples` and `hours` are until the end of a rollout; `exposure` is the mean share of everyone's
    recommendations over the whole time that a rollout may take. Tests looked at again and again are
    of a candidate as good as the baseline: what they see are false alarms.
    """

    def each(measure: Callable[[Sequence[RolloutOutcome]], Any]) -> dict[str, Any]:
        return {name: measure(ended) for name, ended in outcomes.items()}

    def alarms(raised: Callable[[npt.NDArray[np.bool_]], Any]) -> dict[str, float]:
        return {
            name: float(np.mean([raised(one.found[name]) for one in looked]))
            for name in looked[0].found
        }

    repeated = alarms(np.any)
    return {
        "promoted": each(lambda ended: _share(ended, RolloutPhase.PROMOTED)),
        "rolled_back": each(lambda ended: _share(ended, RolloutPhase.ROLLED_BACK)),
        "samples": each(lambda ended: float(np.median([one.shown for one in ended]))),
        "hours": each(lambda ended: float(np.median([one.ticks for one in ended]))),
        "exposure": each(lambda ended: float(np.mean([one.share for one in ended]))),
        "false_alarms_repeated_test": repeated[MANN_WHITNEY],
        "false_alarms": {"repeated": repeated, "single_look": alarms(lambda found: found[-1])},
        "fixed_sample": fixed_sample(looked, _SOUGHT),
        "reasons": each(_reasons),
    }


def _share(ended: Sequence[RolloutOutcome], phase: RolloutPhase) -> float:
    return float(np.mean([one.phase is phase for one in ended]))


def _reasons(ended: Sequence[RolloutOutcome]) -> dict[str, int]:
    """How often each, without its figures."""
    reasons = [one.reason.partition(":")[0] for one in ended]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def table(found: Mapping[str, Any]) -> Table:
    """A row a candidate."""
    alarms = found["false_alarms"]["repeated"][MANN_WHITNEY]
    made = Table(title=f"{found['runs']} rollouts each, {found['people']:,} people", box=None)
    titles = ("promoted", "taken back", "shown", "hours", "of everyone's")
    for title in ("reward", *titles):
        made.add_column(title, justify="right")
    for name in found["promoted"]:
        made.add_row(
            f"{float(name):+.0%}",
            f"{found['promoted'][name]:.1%}",
            f"{found['rolled_back'][name]:.1%}",
            f"{found['samples'][name]:,.0f}",
            f"{found['hours'][name]:.0f}",
            f"{found['exposure'][name]:.1%}",
        )
    made.caption = (
        f"Mann-Whitney looked at every hour at {ALPHA:.0%}: {alarms:.0%} false alarms; "
        f"a single look for {_SOUGHT:.0%} needs {found['fixed_sample']:,.0f} of each"
    )
    return made


if __name__ == "__main__":
    run_benchmark(main)
