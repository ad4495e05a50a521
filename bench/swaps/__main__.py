"""Versions swapped under constant load through a worker: what is lost, what it costs.

    uv run python -m bench.swaps

Kafka, the store, Triton, the worker and the load share their cores. Each version is written and
brought live, and those before it are retired, by the trainer's own code.
"""

import copy
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
import typer
from headwater_client.errors import ServerError
from rich.console import Console

from bench.harness.load import ENDLESS, Answered, Sending, Workload, wait_answers
from bench.harness.measure import SETTLE_S, CpuMeter, Measurement, count_dead_letters, memory_bytes
from bench.harness.processes import WORKER, SystemUnderTest
from bench.harness.runner import Benchmark, ChartOptions, Cores, DataOptions, Quick, Results
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from bench.swaps.figures import Swap, SwapRun, draw, figures, make_figures_table
from deploy.jobs.train import model_registry
from trainer.network import Model
from trainer.registry import ModelVersion, checkpoint
from trainer.settings import FineTuneSettings, TrainerSettings

_TIMEOUT_S = 600.0
_ANSWER_S = 60.0
# Each look interrupts the reader, which notes itself when an answer came.
_POLL_S = 0.1
_MEGABYTE = 1e6
# Of a weight's size: enough for answers that tell versions apart, too little to spoil them.
_NOISE = 0.01


@dataclass(frozen=True, kw_only=True)
class SwapPlan(LoadPlan):
    """How much is measured: events of history and of the sustained run, seconds between swaps."""

    history: int = 50_000
    events: int = 40_000
    quiet_s: float = 60.0
    between_s: float = 2.0


QUICK = SwapPlan(
    train_s=3.0,
    history=2_000,
    events=12_000,
    ahead=4_000,
    quiet_s=4.0,
    between_s=1.0,
    log_events=20_000,
)


@dataclass(frozen=True, kw_only=True)
class SwapOptions(DataOptions, ChartOptions):
    """Options of `bench.swaps`."""

    versions: Annotated[int, typer.Option(help="to be swapped in", min=1)] = 100
    rate: Annotated[
        float | None, typer.Option(help="events/s; default: a tenth of what is sustained", min=20)
    ] = None
    cores: Cores = 2
    quick: Quick = False


class Swapper:
    """Swaps versions on running servers, a worker at work."""

    def __init__(self, loaded: LoadedServers, plan: SwapPlan, worker: SystemUnderTest) -> None:
        self._loaded = loaded
        self._load = loaded.load
        self._settings = loaded.settings
        self._plan = plan
        self._worker = worker
        self._measurement = Measurement(worker, loaded.load, _TIMEOUT_S)
        self._registry = model_registry(loaded.settings, TrainerSettings())
        self._first = checkpoint.load(loaded.servers.version.folder)
        # Versions are written as the slow loop writes them.
        torch.set_num_threads(FineTuneSettings().threads)
        self._answers: list[Answered] = []

    def run(self, versions: int, rate: float | None) -> SwapRun:
        """Quiet, then so many swaps. Without a rate: a tenth of what is sustained.

        Raises:
            ServerError: the worker has ended, a version does not come up, or it takes too long.
        """
        load, quiet_s, say = self._load, self._plan.quiet_s, self._loaded.say
        say(f"{self._plan.history:,} events of history ...")
        self._measurement.prepare(self._plan.history)
        rate = rate or self._find_rate()
        base = self._worker.progress.count_committed()
        load.take_answers()
        say(f"{rate:,.0f} events/s: {quiet_s:.0f} s quiet, then {versions} swaps ...")
        load.start(Sending(ENDLESS, rate))
        time.sleep(SETTLE_S + quiet_s)
        swaps = [self._swap() for _ in range(versions)]
        load.stop()
        sent = load.wait_sent()
        self._measurement.wait_for(base + len(sent))
        self._answers += wait_answers(load, sent[-1:])
        kafka = self._settings.kafka
        refused = count_dead_letters(kafka)
        return SwapRun(rate, sent, self._answers, swaps, refused, kafka.partitions)

    def _find_rate(self) -> float:
        self._loaded.say(f"sustained load, {self._plan.events:,} events ...")
        meter = CpuMeter({"worker": self._worker.process.pid})
        sending = Sending(self._plan.events, ahead=self._plan.ahead)
        return self._measurement.measure_sustained(meter, sending).events_per_second / 10

    def _swap(self) -> Swap:
        begun_s = time.monotonic()
        noisy = replace(self._first, model=add_noise(self._first.model))
        version = self._registry.write_version(noisy)
        started_s = time.monotonic()
        self._registry.go_live(version)
        retired_s = time.monotonic()
        answered_s = self._first_answer_s(version)
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
            memory_bytes(self._loaded.servers.pids["triton"]),
        )
        megabytes = swap.memory_bytes / _MEGABYTE
        self._loaded.say(f"version {swap.version}: {swap.seconds:.1f} s, {megabytes:.0f} MB")
        return swap

    def _first_answer_s(self, version: ModelVersion) -> float:
        """When the first recommendation of a version was read, by `time.monotonic`."""
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline:
            self._worker.check()
            fresh = self._load.take_answers()
            self._answers += fresh
            for answer in fresh:
                if answer.version == str(version.number):
                    return answer.time_s
            time.sleep(_POLL_S)
        raise ServerError(f"version {version.number}: no recommendation in {_ANSWER_S:.0f} s")

    def _announced_s(self, version: ModelVersion) -> float:
        """When a version, the newest, was announced, by `time.monotonic`."""
        rollout = self._registry.rollouts.refresh()
        if rollout is None or [each.version for each in rollout.versions] != [version.number]:
            raise ServerError(f"version {version.number}: is not what was announced last")
        return time.monotonic() - (time.time() - rollout.time / 1000)


def add_noise(model: Model) -> Model:
    """A copy of the model with noise on its weights.

    Publishing compares a version's answers with its graph's: those of another version are wrong.
    """
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        for weight in noisy.parameters():
            weight.add_(_NOISE * weight.square().mean().sqrt() * torch.randn_like(weight))
    return noisy


def measure(options: SwapOptions, console: Console) -> Results:
    """Swap versions under constant load; count what is lost, measure latency and memory."""
    plan = QUICK if options.quick else SwapPlan()
    workload = Workload(options.source, limit=plan.log_events)
    with (
        run_loaded_servers(plan, workload, options.cores, console) as loaded,
        loaded.run(WORKER, "headwater") as worker,
    ):
        run = Swapper(loaded, plan, worker).run(options.versions, options.rate)
    report = figures(run) | {"cores": options.cores}
    return Results(report, [make_figures_table(report)], partial(draw, report))


BENCHMARK = Benchmark("swaps", SwapOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
