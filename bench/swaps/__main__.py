"""Versions swapped under constant load through a worker: what is lost, what it costs.

    uv run python -m bench.swaps

Kafka, the store, Triton, the worker and the load share their cores. Each version is written and
brought live, and those before it are retired, by the trainer's own code.
"""

import copy
import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from statistics import median
from typing import Annotated, Any

import torch
import typer
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.harness import charts, runner
from bench.harness.load import ENDLESS, Answered, Sending, Sent, Workload, wait_answers
from bench.harness.measure import (
    SETTLE_S,
    CpuMeter,
    Latencies,
    Measurement,
    count_dead_letters,
    latencies,
    memory_bytes,
)
from bench.harness.processes import WORKER, SystemUnderTest
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from deploy.jobs.train import model_registry
from features.topics import partition_of
from trainer.network import Model
from trainer.registry import ModelVersion, checkpoint
from trainer.settings import FineTuneSettings, TrainerSettings

# Memory is compared with that after this swap, when caches are full; in short runs with the first.
SETTLED_SWAP = 10


@dataclass(frozen=True)
class Swap:
    """A version that took over; times are of `time.monotonic`.

    Attributes:
        begun_s: it is about to be written, which takes the benchmark's own processor time.
        started_s: its folder is whole, it is about to be loaded.
        announced_s: it is about to be announced.
        answered_s: its first recommendation was read.
        ended_s: it has answered, and what it makes needless is removed.
        stages: seconds of each.
        memory_bytes: Triton's, with all that it has started, before the next swap.
    """

    version: int
    begun_s: float
    started_s: float
    announced_s: float
    answered_s: float
    ended_s: float
    stages: Mapping[str, float]
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """From the whole folder to the first recommendation."""
        return self.answered_s - self.started_s


@dataclass(frozen=True)
class SwapRun:
    """What was sent and answered at a constant rate: first in quiet, then while versions swap.

    Attributes:
        rate: events a second.
        sent: in order.
        swaps: in order, at least one.
        dead_letters: messages that were refused since the servers started.
        partitions: of each topic of people's actions.
    """

    rate: float
    sent: Sequence[Sent]
    answers: Sequence[Answered]
    swaps: Sequence[Swap]
    dead_letters: int
    partitions: int

    def quiet_latencies(self) -> Latencies:
        """Latency of what was sent before the first version was written, the load settled."""
        settled_s = self.sent[0].time_s + SETTLE_S
        return latencies(self._sent_within(settled_s, self.swaps[0].begun_s), self.answers)

    def latencies_during(self, swaps: Sequence[Swap]) -> Latencies:
        """Latency of what was sent while one of these swaps was under way."""
        return self._latencies_within((swap.started_s, swap.ended_s) for swap in swaps)

    def latencies_while_writing(self) -> Latencies:
        """Latency of what was sent while a version was being written."""
        return self._latencies_within((swap.begun_s, swap.started_s) for swap in self.swaps)

    def _latencies_within(self, spans: Iterable[tuple[float, float]]) -> Latencies:
        sent = chain.from_iterable(self._sent_within(*span) for span in spans)
        return latencies(list(sent), self.answers)

    def count_since_first_swap(self) -> int:
        """How many events were sent from the first swap on."""
        return len(self._sent_within(self.swaps[0].started_s, math.inf))

    def _sent_within(self, since_s: float, until_s: float) -> Sequence[Sent]:
        start, end = (
            bisect_left(self.sent, time_s, key=lambda event: event.time_s)
            for time_s in (since_s, until_s)
        )
        return self.sent[start:end]


def find_unanswered(run: SwapRun) -> list[Sent]:
    """Events that no recommendation knows.

    The events of one person in a batch have one recommendation, that of the last. So one without
    its own is known to another's of its person, if both can have been in the same batch.
    """
    read_s = {answer.event_id: answer.time_s for answer in run.answers}
    missed = _find_passed_over(run, read_s)
    return _drop_known_to_earlier(missed, run.sent, read_s)


def _find_passed_over(run: SwapRun, read_s: Mapping[str, float]) -> list[Sent]:
    """Events that neither have a recommendation nor share a batch with a later one that has.

    One was passed over if an event behind it in its topic's partition was answered before the
    person's next answered event was sent: that one was in a later batch.
    """
    next_sent_s: dict[str, float] = {}
    overtaken_s: dict[tuple[str, int], float] = {}
    missed = []
    for event in reversed(run.sent):
        queue = event.topic, partition_of(event.user_id, run.partitions)
        overtaken = overtaken_s.get(queue, math.inf)
        if event.event_id in read_s:
            next_sent_s[event.user_id] = event.time_s
            overtaken_s[queue] = min(overtaken, read_s[event.event_id])
        elif next_sent_s.get(event.user_id, math.inf) >= overtaken:
            missed.append(event)
    return missed[::-1]


def _drop_known_to_earlier(
    missed: Sequence[Sent], sent: Sequence[Sent], read_s: Mapping[str, float]
) -> list[Sent]:
    """Those that no answer to an earlier event of their person, in another topic, can know.

    The worker may take a purchase first and then a click that was sent before it: the click is the
    last of the batch, and is answered after both were sent.
    """
    in_doubt = {event.event_id for event in missed}
    newest_s: dict[tuple[str, str], float] = {}
    left = []
    for event in sent:
        if event.event_id in read_s:
            newest_s[event.user_id, event.topic] = read_s[event.event_id]
        elif event.event_id in in_doubt:
            others = (topic for topic in EVENT_TYPES.topics if topic != event.topic)
            if all(newest_s.get((event.user_id, o), -math.inf) < event.time_s for o in others):
                left.append(event)
    return left


def find_not_live(run: SwapRun) -> list[Answered]:
    """Recommendations of a version that was not live; fallbacks, which name none, left out.

    A version is live from its announcement on. Once the next one has answered, the worker knows of
    it: what is sent from then on is not to be answered by an older one.
    """
    first = run.swaps[0].version - 1
    announced_s = {str(first): -math.inf} | {str(s.version): s.announced_s for s in run.swaps}
    superseded_s = {str(s.version - 1): s.answered_s for s in run.swaps}
    sent_s = {event.event_id: event.time_s for event in run.sent}

    def is_live(answer: Answered) -> bool:
        was_announced = announced_s.get(answer.version, math.inf) <= answer.time_s
        # An event of before the load may be answered after its start.
        asked_s = sent_s.get(answer.event_id, -math.inf)
        return was_announced and asked_s <= superseded_s.get(answer.version, math.inf)

    return [answer for answer in run.answers if not answer.fallback and not is_live(answer)]


def figures(run: SwapRun) -> dict[str, Any]:
    """What the report holds."""
    failures = {
        "fallbacks": sum(answer.fallback for answer in run.answers),
        "unanswered": len(find_unanswered(run)),
        "dead_letters": run.dead_letters,
        "not_live": len(find_not_live(run)),
    }
    quiet, swapping = run.quiet_latencies(), run.latencies_during(run.swaps)
    settled = SETTLED_SWAP if len(run.swaps) > SETTLED_SWAP else 1
    memory = [swap.memory_bytes for swap in run.swaps]
    return {
        "versions": len(run.swaps),
        "events_per_second": run.rate,
        "requests": run.count_since_first_swap(),
        "failed": sum(failures.values()),
        "failures": failures,
        "p99_over_quiet": swapping["p99"] / quiet["p99"],
        "latency_ms": {
            "quiet": quiet,
            "writing": run.latencies_while_writing(),
            "swapping": swapping,
        },
        "memory_growth": memory[-1] / memory[settled - 1] - 1,
        "memory_growth_since_swap": settled,
        "seconds_per_swap": median(swap.seconds for swap in run.swaps),
        "stages_s": {
            stage: median(swap.stages[stage] for swap in run.swaps) for stage in run.swaps[0].stages
        },
        "swaps": [
            {
                "version": swap.version,
                "seconds": swap.seconds,
                "memory_mb": swap.memory_bytes / _MEGABYTE,
                "p99_ms": run.latencies_during([swap])["p99"],
            }
            for swap in run.swaps
        ],
    }


def make_figures_table(found: Mapping[str, Any]) -> Table:
    """The figures as people read them."""
    title = f"{found['versions']} swaps at {found['events_per_second']:,.0f} events/s"
    drawn = runner.make_table(title, "", [""])
    quiet, writing, swapping = (found["latency_ms"][of] for of in ("quiet", "writing", "swapping"))
    memory_mb, since = found["swaps"][-1]["memory_mb"], found["memory_growth_since_swap"]
    rows = {
        "events from the first swap on": f"{found['requests']:,}",
        "failed": f"{found['failed']:,}",
        **{f"  {name.replace('_', ' ')}": f"{n:,}" for name, n in found["failures"].items()},
        "p99 in quiet, ms": f"{quiet['p99']:.0f}",
        "p99 while a version is written, ms": f"{writing['p99']:.0f}",
        "p99 during swaps, ms": f"{swapping['p99']:.0f}  ({found['p99_over_quiet']:.2f} times)",
        "Triton's memory, MB": f"{memory_mb:.0f}",
        f"  since swap {since}": f"{found['memory_growth']:+.1%}",
        "s a swap": f"{found['seconds_per_swap']:.2f}",
        **{f"  {name.replace('_', ' ')}": f"{s:.2f}" for name, s in found["stages_s"].items()},
    }
    for name, value in rows.items():
        drawn.add_row(name, value)
    return drawn


def draw(found: Mapping[str, Any]) -> Figure:
    """Triton's memory and the tail of latency over the swaps of a report."""
    figure, (above, below) = charts.make_panels((7.0, 4.5), rows=2)
    swaps = found["swaps"]
    _plot(above, [swap["memory_mb"] for swap in swaps], charts.BLUE, "Triton's memory, MB")
    _plot(below, [swap["p99_ms"] for swap in swaps], charts.RED, "p99 during the swap, ms")
    quiet = found["latency_ms"]["quiet"]["p99"]
    below.set_ylim(top=max(below.get_ylim()[1], 1.15 * quiet))
    below.axhline(quiet, color=charts.GREY, linestyle="--", linewidth=1)
    charts.annotate(below, "without swaps", (1, quiet))
    below.set_xlabel(f"swap, at {found['events_per_second']:,.0f} events/s", color=charts.GREY)
    charts.tidy((above, below), "y")
    return figure


def _plot(axes: Axes, values: Sequence[float], color: str, title: str) -> None:
    """From 0, so that what grows a little looks like it."""
    axes.plot(range(1, len(values) + 1), values, ".-", color=color, linewidth=1)
    axes.set_ylim(0, 1.15 * max(values))
    axes.set_title(title, loc="left", fontsize="medium")


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
class SwapOptions(runner.DataOptions, runner.ChartOptions):
    """Options of `bench.swaps`."""

    versions: Annotated[int, typer.Option(help="to be swapped in", min=1)] = 100
    rate: Annotated[
        float | None, typer.Option(help="events/s; default: a tenth of what is sustained", min=20)
    ] = None
    cores: runner.Cores = 2
    quick: runner.Quick = False


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


def measure(options: SwapOptions, console: Console) -> runner.Results:
    """Swap versions under constant load; count what is lost, measure latency and memory."""
    plan = QUICK if options.quick else SwapPlan()
    workload = Workload(options.source, limit=plan.log_events)
    with (
        run_loaded_servers(plan, workload, options.cores, console) as loaded,
        loaded.run(WORKER, "headwater") as worker,
    ):
        run = Swapper(loaded, plan, worker).run(options.versions, options.rate)
    report = figures(run) | {"cores": options.cores}
    return runner.Results(report, [make_figures_table(report)], partial(draw, report))


BENCHMARK = runner.Benchmark("swaps", SwapOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
