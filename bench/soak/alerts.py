"""Each alert, shown firing on its fault by a real Prometheus; and none while all is well.

    python -m bench.soak.alerts --quiet 6

A worker, a trainer, two controllers and the HTTP API run on real servers, people click and ask all
along, and Prometheus scrapes the processes and evaluates `deploy/monitoring/alerts.yml`. First
nothing is done, and no alert may fire. Then one fault after another is there until its alerts fire.

`--speed 10` divides each duration of the rules: what takes 5 minutes to fire takes 30 s, and six
minutes of quiet are looked at as often as an hour. `--speed 1` is the rules as they are.
"""

import itertools
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from bench.harness import processes
from bench.harness.prometheus import Prometheus, run_prometheus
from bench.harness.runner import Benchmark, DataOptions, Results, make_table, work_folder
from bench.harness.servers import publish_first
from bench.soak.drills import TRAINING, Drill, DrillGround, lay_out
from deploy import local
from deploy.monitoring import ALERT_RULES
from features.schema import FeatureSchema
from trainer.training import TrainingSetup, train_first_model

_POLL_S = 0.5
# Beyond the time that a rule takes: until a process has said that something is wrong.
_NOTICE_S = 60.0
_CALM_S = 90.0
_DURATION = re.compile(r"(?<=\[)(\d+)m(?=\])")


@dataclass(frozen=True, kw_only=True)
class AlertOptions(DataOptions):
    """How long, and how fast; the log is what the version has learned."""

    quiet: Annotated[float, typer.Option(help="minutes without a fault", min=0)] = 6.0
    speed: Annotated[float, typer.Option(help="divides the rules' durations", min=1)] = 10.0
    only: Annotated[str, typer.Option(help="only drills whose fault has this in it")] = ""


@dataclass(frozen=True)
class DrillResult:
    """What came of a drill.

    Attributes:
        fired_s: by alert: how long after the fault began; None: never.
        others: alerts that fired besides, as a consequence.
    """

    drill: Drill
    fired_s: Mapping[str, float | None]
    others: frozenset[str]


def scale_rules(text: str, speed: float) -> str:
    r"""Rules whose durations are divided.

    >>> scale_rules('{groups: [{rules: [{expr: "rate(a[5m]) > 0", for: 2m}]}]}', 10)
    'groups:\n- rules:\n  - expr: rate(a[30s]) > 0\n    for: 12s\n'
    """

    def divide(minutes: str) -> str:
        return f"{60 * float(minutes) / speed:.0f}s"

    rules = yaml.safe_load(text)
    for rule in itertools.chain.from_iterable(group["rules"] for group in rules["groups"]):
        rule["expr"] = _DURATION.sub(lambda found: divide(found[1]), rule["expr"])
        if "for" in rule:
            rule["for"] = divide(rule["for"].removesuffix("m"))
    return yaml.safe_dump(rules)


def measure(options: AlertOptions, console: Console) -> Results:
    """Watch the quiet, then inject one fault after another."""
    with work_folder() as folder:
        wanted = processes.local_settings(folder)
        try:
            log = options.load_log()
            schema, setup = FeatureSchema(wanted.features), TrainingSetup(TRAINING)
            trained = train_first_model(log, schema, setup)
            settings = local.up(wanted)
            publish_first(trained, settings, TRAINING)
            ground, key_file = lay_out(wanted, settings, log, trained)
            rules = folder / "alerts.yml"
            rules.write_text(scale_rules(ALERT_RULES.read_text(), options.speed))
            with ExitStack() as stack:
                stack.enter_context(ground.run())
                prometheus = stack.enter_context(
                    run_prometheus(folder, ground.targets, rules, key_file)
                )
                return _run(ground, prometheus, options, console)
        finally:
            local.down(wanted)


def _run(
    ground: DrillGround, prometheus: Prometheus, options: AlertOptions, console: Console
) -> Results:
    all_up = sum(map(len, ground.targets.values()))
    _wait(lambda: sum(prometheus.ask("up").values()) >= all_up or None, _CALM_S)
    # A start is no quiet: what a process waited for then is in its rates for a while.
    _wait(lambda: None if prometheus.list_firing() else True, _CALM_S)
    time.sleep(_CALM_S / 3)
    false = watch_quiet(prometheus, 60 * options.quiet)
    console.print(f"{options.quiet:g} minutes of quiet: {len(false)} alerts {sorted(false)}")
    results: list[DrillResult] = []
    for drill in ground.list_drills():
        if options.only in drill.fault:
            results.append(run_drill(drill, prometheus, options.speed))
            console.print(describe(results[-1]), highlight=False)
    figures = {
        "quiet_minutes": options.quiet,
        "speed": options.speed,
        "false_alarms": sorted(false),
        "missed": sorted(
            name for each in results for name, after in each.fired_s.items() if after is None
        ),
        "drills": [
            {
                "fault": each.drill.fault,
                "fired_s": dict(each.fired_s),
                "others": sorted(each.others),
            }
            for each in results
        ],
    }
    return Results(figures, [make_drill_table(results)])


def watch_quiet(prometheus: Prometheus, for_s: float) -> set[str]:
    """The alerts that fire in so long a time."""
    fired: set[str] = set()
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        fired |= prometheus.list_firing()
        time.sleep(_POLL_S)
    return fired


def run_drill(drill: Drill, prometheus: Prometheus, speed: float) -> DrillResult:
    """Inject a fault until its alerts fire; none of them may before."""
    _wait(lambda: None if prometheus.list_firing() & drill.alerts else True, _CALM_S)
    # The longest rule takes twenty minutes.
    deadline_s = 1200 / speed + _NOTICE_S
    fired: dict[str, float | None] = dict.fromkeys(sorted(drill.alerts))
    others: set[str] = set()
    before = prometheus.list_firing()
    began = time.monotonic()
    with drill.inject():
        while None in fired.values() and time.monotonic() - began < deadline_s:
            firing = prometheus.list_firing()
            others |= firing - drill.alerts - before
            for name in firing & drill.alerts:
                fired[name] = fired[name] or round(time.monotonic() - began, 1)
            time.sleep(_POLL_S)
    _wait(lambda: None if prometheus.list_firing() else True, _CALM_S + 900 / speed)
    return DrillResult(drill, fired, frozenset(others))


def _wait(look: Callable[[], object | None], for_s: float) -> None:
    """Wait until there is something; no longer than that."""
    deadline = time.monotonic() + for_s
    while look() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def describe(result: DrillResult) -> str:
    """A line about a drill."""
    fired = ", ".join(
        f"{name} {'never' if after is None else f'{after:.0f} s'}"
        for name, after in result.fired_s.items()
    )
    also = f"; also {', '.join(sorted(result.others))}" if result.others else ""
    return f"{result.drill.fault}: {fired}{also}"


def make_drill_table(results: list[DrillResult]) -> Table:
    """A row for each alert."""
    table = make_table("Alerts and their faults", "alert", ("fault", "after, s", "also fired"))
    for each in results:
        for name, after in each.fired_s.items():
            also = ", ".join(sorted(each.others)) or "-"
            table.add_row(name, each.drill.fault, "never" if after is None else f"{after:g}", also)
    return table


BENCHMARK = Benchmark("soak.alerts", AlertOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
