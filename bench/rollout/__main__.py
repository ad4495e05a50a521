"""Rollouts simulated: how often the rules promote and take back what, and after how much.

uv run python -m bench.rollout
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.harness import charts
from bench.harness.runner import Benchmark, ChartOptions, Results, make_table
from bench.rollout import simulation
from deploy.rollout import RolloutSettings
from features.rollout_messages import RolloutPhase

# People who get each variant, and what a candidate earns there.
FEW_PEOPLE = (1, 2, 4, 10, 100)
FEW_CHANGES = (-0.5, 0.0)
CHANGES = (-0.20, -0.05, 0.0, 0.05, 0.20)
# What a fixed sample is made for.
_SOUGHT = 0.05
_COLORS = {RolloutPhase.PROMOTED: charts.GREEN, RolloutPhase.ROLLED_BACK: charts.RED}
_TESTS = {
    simulation.MANN_WHITNEY: ("Mann-Whitney", charts.PINK),
    simulation.Z_TEST: ("z-test", charts.BLUE),
}

# By what the candidate earns.
Rollouts = Mapping[str, Sequence[simulation.SimulatedRollout]]


@dataclass(frozen=True, kw_only=True)
class RolloutOptions(ChartOptions):
    """Options of `bench.rollout`."""

    runs: Annotated[int, typer.Option(help="rollouts of each candidate", min=1)] = 200
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 7
    people: Annotated[int, typer.Option(min=1000)] = simulation.Population().people


def measure(options: RolloutOptions, console: Console) -> Results:
    """Roll out worse, equal and better versions, again and again."""
    rules, population = RolloutSettings(), simulation.Population(people=options.people)

    def generator(candidate: int, run: int) -> np.random.Generator:
        return np.random.default_rng([options.seed, candidate, run])

    rollouts = {
        f"{change:+.2f}": [
            simulation.simulate_rollout(population, change, rules, generator(at, run))
            for run in track(range(options.runs), f"reward {change:+.0%}", console=console)
        ]
        for at, change in enumerate(CHANGES)
    }
    hours = round(rules.give_up_s / simulation.TICK_S)
    looked = [
        simulation.look_repeatedly(population, 0.0, hours, generator(len(CHANGES), run))
        for run in track(range(options.runs), "tests looked at every hour", console=console)
    ]
    few = {
        f"{people} people, {change:+.0%}": {
            name: _share_promoted(people, change, chosen, options)
            for name, chosen in (("as set", rules), ("without limits", _allow_few(rules)))
        }
        for people in track(FEW_PEOPLE, "few people", console=console)
        for change in FEW_CHANGES
    }
    about = {"runs": options.runs, "seed": options.seed, "people": options.people}
    report = {
        **figures(rollouts, looked),
        "few_people_promoted": few,
        **about,
        "rules": rules.model_dump(mode="json"),
    }
    tables = [make_rollouts_table(report), make_few_people_table(few)]
    return Results(report, tables, partial(draw, rollouts, looked))


def _allow_few(rules: RolloutSettings) -> RolloutSettings:
    return rules.model_copy(update={"min_people": 0, "min_buckets": 0})


def _share_promoted(
    people: int, change: float, rules: RolloutSettings, options: RolloutOptions
) -> float:
    ended = [
        simulation.simulate_few_people(
            people, change, rules, np.random.default_rng([options.seed, people, run])
        )
        for run in range(options.runs)
    ]
    return float(np.mean([phase is RolloutPhase.PROMOTED for phase in ended]))


def make_few_people_table(few: Mapping[str, Mapping[str, float]]) -> Table:
    """How often a candidate is promoted by a handful of people."""
    columns = tuple(next(iter(few.values())))
    table = make_table("promoted, by people of each variant and what it earns", "", columns)
    for name, shares in few.items():
        table.add_row(name, *(f"{share:.1%}" for share in shares.values()))
    return table


def figures(rollouts: Rollouts, looked: Sequence[simulation.RepeatedLooks]) -> dict[str, Any]:
    """The report: shares of runs by how much a candidate earns, medians of what it took."""

    def summarize_by_change(
        summarize: Callable[[Sequence[simulation.SimulatedRollout]], Any],
    ) -> dict[str, Any]:
        return {name: summarize(runs) for name, runs in rollouts.items()}

    def alarm_rates(is_raised: Callable[[npt.NDArray[np.bool_]], Any]) -> dict[str, float]:
        return {
            test: float(np.mean([is_raised(looks.alarms[test]) for looks in looked]))
            for test in looked[0].alarms
        }

    repeated = alarm_rates(np.any)
    return {
        "promoted": summarize_by_change(lambda runs: _share(runs, RolloutPhase.PROMOTED)),
        "rolled_back": summarize_by_change(lambda runs: _share(runs, RolloutPhase.ROLLED_BACK)),
        "samples": summarize_by_change(lambda runs: float(np.median([run.shown for run in runs]))),
        "hours": summarize_by_change(lambda runs: float(np.median([run.ticks for run in runs]))),
        "exposure": summarize_by_change(lambda runs: float(np.mean([run.share for run in runs]))),
        "false_alarms_repeated_test": repeated[simulation.MANN_WHITNEY],
        "false_alarms": {
            "repeated": repeated,
            "single_look": alarm_rates(lambda raised: raised[-1]),
        },
        "fixed_sample": simulation.required_sample(looked, _SOUGHT),
        "reasons": summarize_by_change(_count_reasons),
    }


def _share(runs: Sequence[simulation.SimulatedRollout], phase: RolloutPhase) -> float:
    return float(np.mean([run.phase is phase for run in runs]))


def _count_reasons(runs: Sequence[simulation.SimulatedRollout]) -> dict[str, int]:
    """How often each, without its figures."""
    reasons = [run.reason.partition(":")[0] for run in runs]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def make_rollouts_table(report: Mapping[str, Any]) -> Table:
    """A row a candidate."""
    alarms = report["false_alarms"]["repeated"][simulation.MANN_WHITNEY]
    title = f"{report['runs']} rollouts each, {report['people']:,} people"
    columns = ("promoted", "taken back", "shown", "hours", "of everyone's")
    table = make_table(title, "reward", columns)
    for name in report["promoted"]:
        table.add_row(
            f"{float(name):+.0%}",
            f"{report['promoted'][name]:.1%}",
            f"{report['rolled_back'][name]:.1%}",
            f"{report['samples'][name]:,.0f}",
            f"{report['hours'][name]:.0f}",
            f"{report['exposure'][name]:.1%}",
        )
    table.caption = (
        f"Mann-Whitney looked at every hour at {simulation.ALPHA:.0%}: {alarms:.0%} false alarms; "
        f"a single look for {_SOUGHT:.0%} needs {report['fixed_sample']:,.0f} of each"
    )
    return table


def draw(rollouts: Rollouts, looked: Sequence[simulation.RepeatedLooks]) -> Figure:
    """How rollouts end, and what looking again and again does."""
    figure, panels = charts.make_panels((10.0, 4.2), columns=2)
    _draw_ends(panels[0], rollouts)
    _draw_alarms(panels[1], looked)
    charts.tidy(panels)
    for axes in panels:
        axes.legend(frameon=False)
    return figure


def _draw_ends(axes: Axes, rollouts: Rollouts) -> None:
    """Each rollout: how long it took, by what its version earns."""
    drawn = set()
    for at, runs in enumerate(rollouts.values()):
        hours = np.array([run.ticks for run in runs])
        beside = at + np.linspace(-0.3, 0.3, len(runs))
        for phase, color in _COLORS.items():
            mine = np.array([run.phase is phase for run in runs])
            label = None if phase in drawn or not mine.any() else phase.replace("_", " ")
            drawn |= {phase} if label else set()
            axes.plot(beside[mine], hours[mine], ".", color=color, markersize=4, label=label)
    axes.set_xticks(range(len(rollouts)), [f"{float(name):+.0%}" for name in rollouts])
    axes.set_yscale("log")
    for write_ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        write_ticks("{x:g}")
    axes.set_xlabel("reward of the candidate beside the baseline")
    axes.set_ylabel("hours until the end")


def _draw_alarms(axes: Axes, looked: Sequence[simulation.RepeatedLooks]) -> None:
    """How many have raised a false alarm by each hour."""
    for test, (name, color) in _TESTS.items():
        ever = np.array([np.maximum.accumulate(looks.alarms[test]) for looks in looked]).mean(0)
        label = f"{name}, looked at every hour"
        axes.plot(np.arange(1, len(ever) + 1), 100 * ever, color=color, label=label)
    axes.axhline(100 * simulation.ALPHA, color=charts.GREY, linewidth=0.8, linestyle="--")
    axes.set_xlabel("hours; the candidate is as good as the baseline")
    axes.set_ylabel("share of rollouts with a false alarm, %")


BENCHMARK = Benchmark("rollout", RolloutOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
