"""The whole loop: how many events a second, how soon, at what cost; beside the documented way.

    uv run python -m bench.loop

Everything that works runs on one core, which is the same for both ways: Kafka, the store, Triton,
the worker, whoever produces events and whoever reads recommendations.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from headwater_client.errors import ServerError
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, RenderableType
from rich.table import Table

from bench.harness import processes
from bench.harness.load import Order, Sending, Workload
from bench.harness.measure import CpuMeter, Latencies, Measurement, Sustained, count_dead_letters
from bench.harness.runner import Benchmark, Cores, DataOptions, Quick, Results, make_table
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from deploy.local.process import choose
from features.schema import FILE_NAME

_TIMEOUT_S = 600.0
_SERVERS = ("kafka", "store", "triton")


_WAYS = ("Headwater", "one at a time")
_GENERATOR = ("producer", "reader")
_LABELS = {"stage", "reason"}

# The worker's metrics by name and label.
Samples = dict[tuple[str, str], float]


@dataclass(frozen=True)
class WorkerActivity:
    """What a worker did between two moments.

    Attributes:
        batch_events: in a batch, on average.
        stage_ms: wall time of an average batch, by stage.
    """

    batch_events: float
    stage_ms: dict[str, float]
    retries: float
    conflicts: float


@dataclass(frozen=True)
class MeasuredWay:
    """What was measured of one way."""

    sustained: Sustained
    latency: Mapping[str, Latencies]
    work: WorkerActivity | None = None

    @property
    def stages(self) -> dict[str, float]:
        """Microseconds of CPU an event, by process."""
        return self.sustained.stages

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds of CPU an event: of all processes, and without the load's own."""
        total = sum(self.stages.values())
        own = sum(self.stages[name] for name in _GENERATOR)
        return {"total": total, "without_load": total - own}


def scrape(port: int) -> Samples:
    """The metrics of the worker that serves them at this port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "".join(v for k, v in sample.labels.items() if k in _LABELS)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("headwater_") and "le" not in sample.labels
    }


def work_between(before: Samples, after: Samples) -> WorkerActivity:
    """What was done in between."""

    def growth(name: str, label: str = "") -> float:
        return after.get((name, label), 0.0) - before.get((name, label), 0.0)

    batches = max(1.0, growth("headwater_batch_events_count"))
    stages = sorted(label for name, label in after if name == "headwater_stage_seconds_sum")
    return WorkerActivity(
        batch_events=growth("headwater_batch_events_sum") / batches,
        stage_ms={
            stage: 1000 * growth("headwater_stage_seconds_sum", stage) / batches for stage in stages
        },
        retries=sum(
            growth(name, label) for name, label in after if name == "headwater_retries_total"
        ),
        conflicts=growth("headwater_write_conflicts_total"),
    )


def figures(
    headwater: MeasuredWay, baseline: MeasuredWay, parts: Mapping[str, float]
) -> dict[str, Any]:
    """What the report holds."""
    mine, theirs = headwater.sustained, baseline.sustained
    half = headwater.latency["half"]
    return {
        "events_per_second": mine.events_per_second,
        "baseline_events_per_second": theirs.events_per_second,
        "speedup": mine.events_per_second / theirs.events_per_second,
        "latency_ms": {**headwater.latency, "p50": half["p50"], "p99": half["p99"]},
        "baseline_latency_ms": baseline.latency,
        "stages": headwater.stages,
        "baseline_stages": baseline.stages,
        "cpu_us": headwater.cpu_us,
        "baseline_cpu_us": baseline.cpu_us,
        "parts_us": dict(parts),
        "parts_over_loop": sum(parts.values()) / headwater.cpu_us["total"],
        "worker": asdict(headwater.work) if headwater.work else {},
        "answers_per_event": mine.answers / mine.sent,
        "fallbacks": mine.fallbacks,
        "baseline_fallbacks": theirs.fallbacks,
    }


def show(report: Mapping[str, Any]) -> Sequence[RenderableType]:
    """The report for people."""
    return [_speed(report), _cpu(report), _parts(report), _checks(report)]


def _speed(figures: Mapping[str, Any]) -> Table:
    cores = figures["cores"]
    title = f"The whole loop, all processes on {cores} core{'s' * (cores > 1)}"
    table = make_table(title, "", _WAYS)
    table.add_row(
        "events/s, sustained",
        f"{figures['events_per_second']:,.0f}  ({figures['speedup']:.1f} times)",
        f"{figures['baseline_events_per_second']:,.0f}",
    )
    for name, share in (("quarter", "a quarter"), ("half", "half")):
        mine, theirs = (figures[way].get(name) for way in ("latency_ms", "baseline_latency_ms"))
        table.add_row(f"ms at {share} of it, p50 / p90 / p99", _latency(mine), _latency(theirs))
    return table


def _latency(found: Mapping[str, float] | None) -> str:
    return " / ".join(f"{found[name]:.0f}" for name in ("p50", "p90", "p99")) if found else "-"


def _cpu(figures: Mapping[str, Any]) -> Table:
    table = make_table("Microseconds of CPU an event", "", _WAYS)
    mine, theirs = figures["stages"], figures["baseline_stages"]
    for name in mine:
        table.add_row(name, f"{mine[name]:,.0f}", f"{theirs[name]:,.0f}")
    table.add_section()
    for name in figures["cpu_us"]:
        row = (figures[way][name] for way in ("cpu_us", "baseline_cpu_us"))
        table.add_row(name.replace("_", " "), *(f"{value:,.0f}" for value in row))
    return table


def _parts(figures: Mapping[str, Any]) -> Table:
    batch = figures["worker"]["batch_events"]
    title = f"Each part alone, in batches of {batch:.0f}"
    table = make_table(title, "", ["microseconds an event"])
    for name, value in figures["parts_us"].items():
        table.add_row(name, f"{value:,.1f}")
    table.add_section()
    table.add_row("sum", f"{sum(figures['parts_us'].values()):,.0f}")
    table.add_row("of the loop's total", f"{figures['parts_over_loop']:.2f}")
    return table


def _checks(figures: Mapping[str, Any]) -> str:
    worker = figures["worker"]
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in worker["stage_ms"].items())
    return (
        f"{figures['answers_per_event']:.2f} recommendations an event (order: {figures['order']}); "
        f"batches of {worker['batch_events']:.0f} events; ms of a batch: {stages}\n"
        f"fallbacks {figures['fallbacks']}, dead letters {figures['dead_letters']}, "
        f"retries {worker['retries']:.0f}, write conflicts {worker['conflicts']:.0f}; "
        "all events committed"
    )


@dataclass(frozen=True, kw_only=True)
class LoopPlan(LoadPlan):
    """How much is measured. Events of the sustained runs, seconds at each constant rate."""

    seconds: float = 30.0
    baseline_events: int = 1_500
    baseline_ahead: int = 150
    baseline_seconds: float = 30.0
    part_events: int = 20_000


QUICK = LoopPlan(
    events=12_000,
    ahead=4_000,
    seconds=4.0,
    baseline_events=200,
    baseline_ahead=40,
    baseline_seconds=4.0,
    part_events=4_000,
    train_s=3.0,
    log_events=20_000,
)


@dataclass(frozen=True, kw_only=True)
class LoopOptions(DataOptions):
    """Options of `bench.loop`."""

    cores: Cores = 1
    order: Annotated[
        Order, typer.Option(help="mixed: as many people at once as there are; logged: as recorded")
    ] = Order.MIXED
    quick: Quick = False


class LoopRun:
    """One run of the benchmark on running servers."""

    def __init__(self, loaded: LoadedServers, plan: LoopPlan) -> None:
        self._loaded = loaded
        self._servers = loaded.servers
        self._settings = loaded.settings
        self._plan = plan

    def measure_headwater(self, history: int) -> MeasuredWay:
        """Headwater's worker, after so many events that give people their histories."""
        port = choose({"metrics": 9464})["metrics"]
        variables = {"HEADWATER_WORKER__METRICS_PORT": str(port)}
        with self._loaded.run(processes.WORKER, "headwater", variables) as worker:
            measurement = Measurement(worker, self._loaded.load, _TIMEOUT_S)
            self._say(f"headwater: {history:,} events of history")
            measurement.prepare(history)
            self._say(f"headwater: sustained load, {self._plan.events:,} events")
            before = scrape(port)
            sending = Sending(self._plan.events, ahead=self._plan.ahead)
            sustained = measurement.measure_sustained(self._meter(worker), sending)
            work = work_between(before, scrape(port))
            latency = {}
            for name, share in (("quarter", 0.25), ("half", 0.5)):
                rate = sustained.events_per_second * share
                self._say(f"headwater: latency at {rate:,.0f} events/s")
                latency[name] = measurement.measure_latency(rate, self._plan.seconds)
            return MeasuredWay(sustained, latency, work)

    def measure_one_at_a_time(self) -> MeasuredWay:
        """The documented way, on the rows as they are now."""
        plan, version = self._plan, self._servers.version
        arguments = (
            *("-m", "bench.loop.one_at_a_time", str(self._servers.repository)),
            *(str(version.number), f"{version.address}/{FILE_NAME}"),
        )
        processes.ConsumerProgress(self._settings, "one-at-a-time").skip_all()
        slack = 2 * self._settings.kafka.partitions
        with self._loaded.run(arguments, "one-at-a-time") as system:
            measurement = Measurement(system, self._loaded.load, _TIMEOUT_S, slack)
            self._say(f"one at a time: sustained load, {plan.baseline_events:,} events")
            sending = Sending(plan.baseline_events, ahead=plan.baseline_ahead)
            sustained = measurement.measure_sustained(self._meter(system), sending)
            rate = sustained.events_per_second / 2
            self._say(f"one at a time: latency at {rate:,.0f} events/s")
            half = measurement.measure_latency(rate, plan.baseline_seconds)
            return MeasuredWay(sustained, {"half": half})

    def measure_parts(self, batch: int, data: Path | None, order: Order) -> dict[str, float]:
        """Microseconds an event of each part, measured alone at this size of batches.

        Writes rows as if of events that are not there: the last thing to do on these servers.
        """
        self._say(f"parts, each alone, in batches of {batch}")
        version, events = self._servers.version, self._plan.part_events
        processes.ConsumerProgress(self._settings, "bare-stream").skip_all()
        parts = self._read_output(
            "bench.loop.parts",
            "parts",
            *(str(version.number), f"{version.address}/{FILE_NAME}"),
            *(str(batch), str(events), str(data or ""), order),
        )
        return self._read_output("bench.loop.bare_stream", "bare-stream", str(events)) | parts

    def _meter(self, system: processes.SystemUnderTest) -> CpuMeter:
        pids = {name: self._servers.pids[name] for name in _SERVERS}
        return CpuMeter(pids | {"worker": system.process.pid} | self._loaded.load.pids)

    def _read_output(self, module: str, group: str, *arguments: str) -> dict[str, float]:
        """What a program of this benchmark prints as JSON."""
        variables = {**os.environ, **processes.worker_variables(self._settings, group)}
        with self._loaded.cores.working():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=variables, stdout=subprocess.PIPE
            )
        printed, _ = process.communicate(timeout=_TIMEOUT_S)
        for line in printed.decode().splitlines():
            if line.startswith("{"):
                output: dict[str, float] = json.loads(line)
                return output
        raise ServerError(f"{module} ended with exit code {process.returncode}")

    def _say(self, text: str) -> None:
        self._loaded.say(f"{text} ...")


def measure(options: LoopOptions, console: Console) -> Results:
    """Measure the whole loop beside the documented one-event-at-a-time way."""
    plan = QUICK if options.quick else LoopPlan()
    workload = Workload(options.source, options.order, plan.log_events)
    with run_loaded_servers(plan, workload, options.cores, console) as loaded:
        run = LoopRun(loaded, plan)
        headwater = run.measure_headwater(len(loaded.log.events) // 2)
        refused = count_dead_letters(loaded.settings.kafka)
        baseline = run.measure_one_at_a_time()
        assert headwater.work
        batch = max(1, round(headwater.work.batch_events))
        parts = run.measure_parts(batch, options.data, options.order)
    about = {"cores": options.cores, "order": options.order, "dead_letters": refused}
    report = {**about, **figures(headwater, baseline, parts)}
    return Results(report, show(report))


BENCHMARK = Benchmark("loop", LoopOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
