"""Versions swapped under constant load through a worker: what is lost, what it costs.

    uv run python -m bench.swaps

Kafka, the store, Triton, the worker and the load share their cores. Each version is written and
brought live, and those before it are retired, by the trainer's own code.
"""

from __future__ import annotations

import copy
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from headwater_client.errors import ServerError
from rich.console import Console

from bench.harness.cores import Cores, CpuMeter, memory_bytes, split
from bench.harness.load import ENDLESS, Answered, Load, Sending
from bench.harness.measure import SETTLE_S, dead_letters, late_answers, prepare, sustained
from bench.harness.report import run_benchmark, write_report
from bench.harness.servers import Servers, running_servers
from bench.harness.subjects import HEADWATER, Subject, running
from bench.harness.traffic import Order
from bench.swaps.chart import draw
from bench.swaps.figures import Loaded, Swap, figures, table
from deploy.settings import default_cache_dir
from features.inputs import MODEL_NAME
from features.rollouts import newest_rollout
from features.schema import FeatureSchema
from trainer.datasets.log import DataSource, load_log
from trainer.network.ensemble import Model
from trainer.registry import checkpoint
from trainer.registry.publish import ModelVersion, go_live, write_version
from trainer.registry.triton import ModelServer
from trainer.settings import FineTuneSettings, TrainerSettings

_TIMEOUT_S = 600.0
_ANSWER_S = 60.0
# Each look interrupts the reader, which notes itself when an answer came.
_POLL_S = 0.1
_MEGABYTE = 1e6
# Of a weight's size: enough for answers that tell versions apart, too little to spoil them.
_NOISE = 0.01


@dataclass(frozen=True)
class Plan:
    """How much is measured: events of history and of the sustained run, seconds between swaps."""

    train_s: float = 20.0
    history: int = 50_000
    events: int = 40_000
    ahead: int = 8_000
    quiet_s: float = 60.0
    between_s: float = 2.0
    log_events: int | None = None


QUICK = Plan(
    train_s=3.0,
    history=2_000,
    events=12_000,
    ahead=4_000,
    quiet_s=4.0,
    between_s=1.0,
    log_events=20_000,
)


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
        self._publisher = Publisher(servers)
        self._answers: list[Answered] = []

    def loaded(self, versions: int, rate: float | None) -> Loaded:
        """Quiet, then so many swaps. Without a rate: a tenth of what is sustained.

        Raises:
            ServerError: the worker has ended, a version does not come up, or it takes too long.
        """
        load, quiet_s = self._load, self._plan.quiet_s
        with running(self._settings, HEADWATER, "headwater", self._cores) as worker:
            self._say(f"{self._plan.history:,} events of history ...")
            prepare(worker, load, self._plan.history, _TIMEOUT_S)
            rate = rate or self._tenth(worker)
            base = worker.progress.committed()
            load.answers()
            self._say(f"{rate:,.0f} events/s: {quiet_s:.0f} s quiet, then {versions} swaps ...")
            load.start(Sending(ENDLESS, rate))
            time.sleep(SETTLE_S + quiet_s)
            swaps = [self._swap(worker) for _ in range(versions)]
            load.stop()
            sent = load.sent()
            worker.progress.wait_for(base + len(sent), worker, _TIMEOUT_S)
            self._answers += late_answers(load, sent[-1:])
            kafka = self._settings.kafka
            refused = dead_letters(kafka)
            return Loaded(rate, sent, self._answers, swaps, refused, kafka.partitions)

    def _tenth(self, worker: Subject) -> float:
        self._say(f"sustained load, {self._plan.events:,} events ...")
        meter = CpuMeter({"worker": worker.process.pid})
        sending = Sending(self._plan.events, ahead=self._plan.ahead)
        return sustained(worker, self._load, meter, sending, _TIMEOUT_S).events_per_second / 10

    def _swap(self, worker: Subject) -> Swap:
        begun_s = time.monotonic()
        version = self._publisher.write()
        started_s = time.monotonic()
        self._publisher.go_live(version)
        retired_s = time.monotonic()
        answered_s = self._first_answer(version, worker)
        announced_s = self._announced_s(version)
        time.sleep(self._plan.between_s)
        swap = Swap(
            version.number,
            begun_s,
            started_s,
            announced_s,
            answered_s,
            max(answered_s, retired_s),
            {
                "write": started_s - begun_s,
                "bring_up": announced_s - started_s,
                "first_answer": answered_s - announced_s,
                "retire": retired_s - announced_s,
            },
            memory_bytes(self._servers.pids["triton"]),
        )
        megabytes = swap.memory_bytes / _MEGABYTE
        self._say(f"version {swap.version}: {swap.seconds:.1f} s, {megabytes:.0f} MB")
        return swap

    def _first_answer(self, version: ModelVersion, worker: Subject) -> float:
        """When the first recommendation of a version was read, by `time.monotonic`."""
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline:
            worker.check()
            fresh = self._load.answers()
            self._answers += fresh
            for answer in fresh:
                if answer.version == str(version.number):
                    return answer.time_s
            time.sleep(_POLL_S)
        raise ServerError(f"version {version.number}: no recommendation in {_ANSWER_S:.0f} s")

    def _announced_s(self, version: ModelVersion) -> float:
        """When a version, the newest, was announced, by `time.monotonic`."""
        rollout = newest_rollout(self._settings.kafka, MODEL_NAME)
        if rollout is None or [each.version for each in rollout.versions] != [version.number]:
            raise ServerError(f"version {version.number}: is not what was announced last")
        return time.monotonic() - (time.time() - rollout.time / 1000)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


class Publisher:
    """Writes versions of the model that is live, and brings them live, as the trainer does."""

    def __init__(self, servers: Servers) -> None:
        self._kafka = servers.settings.kafka
        self._repository = servers.settings.model_repository
        self._server = ModelServer(servers.settings.triton.url or "")
        self._schema = FeatureSchema(servers.settings.features)
        self._settings = TrainerSettings()
        self._first = checkpoint.load(servers.version.folder)
        torch.set_num_threads(FineTuneSettings().threads)

    def write(self) -> ModelVersion:
        """The next version: the first one's weights, a little changed."""
        changed = replace(self._first, model=_changed(self._first.model))
        return write_version(changed, self._repository, self._schema, self._settings)

    def go_live(self, version: ModelVersion) -> None:
        """Load it, announce it, retire what is no longer needed."""
        go_live(version, self._server, self._kafka, self._schema, self._settings)


def _changed(model: Model) -> Model:
    """The model with noise on its weights.

    Publishing compares a version's answers with its graph's: those of another version are wrong.
    """
    found = copy.deepcopy(model)
    with torch.no_grad():
        for weight in found.parameters():
            weight.add_(_NOISE * weight.square().mean().sqrt() * torch.randn_like(weight))
    return found


def main(
    data: Annotated[
        Path | None, typer.Option(help="a log; MovieLens-100K if none is given")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None,
    chart: Annotated[
        Path | None, typer.Option(help="draw memory and latency over the swaps: SVG or PNG")
    ] = None,
    versions: Annotated[int, typer.Option(help="to be swapped in", min=1)] = 100,
    rate: Annotated[
        float | None, typer.Option(help="events/s; default: a tenth of what is sustained", min=20)
    ] = None,
    cores: Annotated[int, typer.Option(help="how many cores everything shares", min=1)] = 2,
    quick: Annotated[bool, typer.Option(help="a few seconds each: whether it works")] = False,
) -> None:
    """Swap versions under constant load; count what is lost, measure latency and memory."""
    console = Console(stderr=True)
    plan = QUICK if quick else Plan()
    source = DataSource(default_cache_dir(), data)
    log = load_log(source)
    log = log.head(plan.log_events) if plan.log_events else log
    shared = split(cores)
    with running_servers(log.split(0.5)[0], plan.train_s, shared, console) as servers:
        with shared.working():
            load = Load(servers.settings.kafka, source, Order.MIXED, plan.log_events)
        with closing(load), shared.measuring():
            run = Run(servers, load, plan, shared, console)
            found = figures(run.loaded(versions, rate)) | {"cores": len(shared.shared)}
    Console().print(table(found))
    if report:
        write_report(report, "swaps", found)
    if chart:
        draw(found, chart)


if __name__ == "__main__":
    run_benchmark(main)
