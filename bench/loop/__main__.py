"""The whole loop: how many events a second, how soon, at what cost; beside the documented way.

    uv run python -m bench.loop

Everything that works runs on one core, which is the same for both ways: Kafka, the store, Triton,
the worker, whoever produces events and whoever reads recommendations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from headwater_client.errors import ServerError
from rich.console import Console

from bench.harness.cores import CpuMeter
from bench.harness.load import Sending, Workload
from bench.harness.measure import Measurement, count_dead_letters
from bench.harness.processes import WORKER, ConsumerProgress, SystemUnderTest, worker_variables
from bench.harness.runner import Benchmark, Cores, DataOptions, Quick, Results
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from bench.harness.workload import Order
from bench.loop.figures import MeasuredWay, figures, scrape, show, work_between
from deploy.local.ports import choose
from features.vocabulary import FILE_NAME

_TIMEOUT_S = 600.0
_SERVERS = ("kafka", "store", "triton")


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
        with self._loaded.run(WORKER, "headwater", variables) as worker:
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
        ConsumerProgress(self._settings, "one-at-a-time").skip_all()
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
        ConsumerProgress(self._settings, "bare-stream").skip_all()
        parts = self._read_output(
            "bench.loop.parts",
            "parts",
            *(str(version.number), f"{version.address}/{FILE_NAME}"),
            *(str(batch), str(events), str(data or ""), order),
        )
        return self._read_output("bench.loop.bare_stream", "bare-stream", str(events)) | parts

    def _meter(self, system: SystemUnderTest) -> CpuMeter:
        pids = {name: self._servers.pids[name] for name in _SERVERS}
        return CpuMeter(pids | {"worker": system.process.pid} | self._loaded.load.pids)

    def _read_output(self, module: str, group: str, *arguments: str) -> dict[str, float]:
        """What a program of this benchmark prints as JSON."""
        variables = {**os.environ, **worker_variables(self._settings, group)}
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
