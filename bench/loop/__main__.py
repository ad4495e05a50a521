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
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from headwater_client.errors import ServerError
from rich.console import Console

from bench.harness.cores import Cores, CpuMeter, split
from bench.harness.load import Load, Sending
from bench.harness.measure import Latencies, Sustained, dead_letters, latency, prepare, sustained
from bench.harness.report import run_benchmark, write_report
from bench.harness.servers import Servers, running_servers
from bench.harness.subjects import HEADWATER, Progress, Subject, addresses, running
from bench.harness.traffic import Order
from bench.loop import tables as loop_tables
from bench.loop.scrape import Worked, scrape, worked
from deploy.local.ports import choose
from deploy.settings import default_cache_dir
from features.vocabulary import FILE_NAME
from trainer.datasets.log import DataSource, Log, load_log

_TIMEOUT_S = 600.0
_SERVERS = ("kafka", "store", "triton")
_GENERATOR = ("producer", "reader")


@dataclass(frozen=True)
class Plan:
    """How much is measured. Events of the sustained runs, seconds at each constant rate."""

    events: int = 60_000
    ahead: int = 8_000
    seconds: float = 30.0
    baseline_events: int = 1_500
    baseline_ahead: int = 150
    baseline_seconds: float = 30.0
    part_events: int = 20_000
    train_s: float = 20.0
    log_events: int | None = None


QUICK = Plan(
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


@dataclass(frozen=True)
class Measured:
    """What was measured of one way."""

    sustained: Sustained
    latency: Mapping[str, Latencies]
    worked: Worked | None = None

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


class Run:
    """One run of the benchmark on running servers."""

    def __init__(
        self, servers: Servers, load: Load, plan: Plan, cores: Cores, console: Console
    ) -> None:
        self._servers = servers
        self._settings = servers.settings
        self._load = load
        self._plan = plan
        self._cores = cores
        self._console = console

    def headwater(self, history: int) -> Measured:
        """Headwater's worker, after so many events that give people their histories."""
        port = choose({"metrics": 9464})["metrics"]
        variables = {"HEADWATER_WORKER__METRICS_PORT": str(port)}
        with self._running(HEADWATER, "headwater", variables) as worker:
            self._say(f"headwater: {history:,} events of history")
            prepare(worker, self._load, history, _TIMEOUT_S)
            self._say(f"headwater: sustained load, {self._plan.events:,} events")
            before = scrape(port)
            sending = Sending(self._plan.events, ahead=self._plan.ahead)
            found = sustained(worker, self._load, self._meter(worker), sending, _TIMEOUT_S)
            done = worked(before, scrape(port))
            latencies = {}
            for name, share in (("quarter", 0.25), ("half", 0.5)):
                rate = found.events_per_second * share
                self._say(f"headwater: latency at {rate:,.0f} events/s")
                latencies[name] = latency(worker, self._load, rate, self._plan.seconds, _TIMEOUT_S)
            return Measured(found, latencies, done)

    def one_at_a_time(self) -> Measured:
        """The documented way, on the rows as they are now."""
        plan, version = self._plan, self._servers.version
        arguments = (
            *("-m", "bench.loop.one_at_a_time", str(self._servers.repository)),
            *(str(version.number), f"{version.address}/{FILE_NAME}"),
        )
        Progress(self._settings, "one-at-a-time").skip_all()
        with self._running(arguments, "one-at-a-time") as subject:
            self._say(f"one at a time: sustained load, {plan.baseline_events:,} events")
            slack = 2 * self._settings.kafka.partitions
            sending = Sending(plan.baseline_events, ahead=plan.baseline_ahead)
            found = sustained(subject, self._load, self._meter(subject), sending, _TIMEOUT_S, slack)
            rate = found.events_per_second / 2
            self._say(f"one at a time: latency at {rate:,.0f} events/s")
            half = latency(subject, self._load, rate, plan.baseline_seconds, _TIMEOUT_S, slack)
            return Measured(found, {"half": half})

    def parts(self, batch: int, data: Path | None, order: Order) -> dict[str, float]:
        """Microseconds an event of each part, measured alone at this size of batches.

        Writes rows as if of events that are not there: the last thing to do on these servers.
        """
        self._say(f"parts, each alone, in batches of {batch}")
        version, events = self._servers.version, self._plan.part_events
        Progress(self._settings, "bare-stream").skip_all()
        found = self._output(
            "bench.loop.parts",
            "parts",
            *(str(version.number), f"{version.address}/{FILE_NAME}"),
            *(str(batch), str(events), str(data or ""), order),
        )
        return self._output("bench.loop.bare_stream", "bare-stream", str(events)) | found

    def _running(
        self, arguments: Sequence[str], group: str, variables: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Subject]:
        return running(self._settings, arguments, group, self._cores, variables)

    def _meter(self, subject: Subject) -> CpuMeter:
        pids = {name: self._servers.pids[name] for name in _SERVERS}
        return CpuMeter(pids | {"worker": subject.process.pid} | self._load.pids)

    def _output(self, module: str, group: str, *arguments: str) -> dict[str, float]:
        """What a program of this benchmark prints as JSON."""
        variables = {**os.environ, **addresses(self._settings, group)}
        with self._cores.working():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=variables, stdout=subprocess.PIPE
            )
        printed, _ = process.communicate(timeout=_TIMEOUT_S)
        for line in printed.decode().splitlines():
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise ServerError(f"{module} ended with exit code {process.returncode}")

    def _say(self, text: str) -> None:
        self._console.print(f"{text} ...", highlight=False)


def figures(
    headwater: Measured, baseline: Measured, parts: Mapping[str, float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """What the report holds."""
    mine, theirs = headwater.sustained, baseline.sustained
    half = headwater.latency["half"]
    return {
        **about,
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
        "worker": asdict(headwater.worked) if headwater.worked else {},
        "answers_per_event": mine.answers / mine.sent,
        "fallbacks": mine.fallbacks,
        "baseline_fallbacks": theirs.fallbacks,
    }


def main(
    data: Annotated[
        Path | None, typer.Option(help="a log to replay; MovieLens-100K if none is given")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    cores: Annotated[int, typer.Option(help="how many cores everything shares", min=1)] = 1,
    order: Annotated[
        Order, typer.Option(help="mixed: as many people at once as there are; logged: as recorded")
    ] = Order.MIXED,
    quick: Annotated[bool, typer.Option(help="a few seconds each: whether it works")] = False,
) -> None:
    """Measure the whole loop beside the documented one-event-at-a-time way."""
    console = Console(stderr=True)
    plan = QUICK if quick else Plan()
    source = DataSource(default_cache_dir(), data)
    log = load_log(source)
    log = log.head(plan.log_events) if plan.log_events else log
    first, _ = log.split(0.5)
    shared = split(cores)
    with running_servers(first, plan.train_s, shared, console) as servers:
        found = _measure(servers, source, log, plan, shared, order, console)
    loop_tables.show(found, Console())
    if report:
        write_report(report, "loop", found)


def _measure(
    servers: Servers,
    source: DataSource,
    log: Log,
    plan: Plan,
    cores: Cores,
    order: Order,
    console: Console,
) -> dict[str, Any]:
    kafka = servers.settings.kafka
    with cores.working():
        load = Load(kafka, source, order, plan.log_events)
    with closing(load), cores.measuring():
        run = Run(servers, load, plan, cores, console)
        headwater = run.headwater(len(log.events) // 2)
        refused = dead_letters(kafka)
        baseline = run.one_at_a_time()
    assert headwater.worked
    batch = max(1, round(headwater.worked.batch_events))
    parts = run.parts(batch, source.path, order)
    about = {"cores": len(cores.shared), "order": order, "dead_letters": refused}
    return figures(headwater, baseline, parts, about)


if __name__ == "__main__":
    run_benchmark(main)
