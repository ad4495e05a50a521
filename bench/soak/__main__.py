"""A soak: events through several workers while processes and servers are killed and stopped.

    uv run python -m bench.soak --seed 1

What strikes when is drawn from the seed. What ends by itself is started again, as an orchestrator
does. At the end every row is compared with a recomputation from the log.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from headwater_client import EventProducer
from headwater_client.events import Recommendation
from headwater_client.topics import RECOMMENDATIONS
from rich.console import Console

from bench.harness.processes import ConsumerProgress, local_settings
from bench.harness.runner import Benchmark, DataOptions, Results, make_table, work_folder
from bench.harness.servers import publish_first
from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from features.store import item_sources
from tests.harness import oracle
from tests.harness.rows import read_rows
from tests.harness.workers import WorkerProcess, running
from trainer.datasets import Log
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, train_first_model

GROUP = "soak"
SERVERS = ("kafka", "store", "triton")
# How long a stopped process sleeps: some outlast a worker's session of 6 s.
_STOPPED_S = (1.0, 9.0)
_LOOK_S = 0.5
_WAIT_S = 300.0
# A worker that ends so often while nothing is committed goes round in a circle.
_CIRCLE = 10
_TRAIN_S = 10.0
KEYS = ("events", "faults", "lost", "double", "unanswered", "loops")


class FaultKind(StrEnum):
    """What is done to a process."""

    KILL = "kill"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True)
class Fault:
    """What strikes whom, once so many events were sent.

    Attributes:
        stopped_s: how long a stopped process sleeps.
    """

    at_event: int
    kind: FaultKind
    target: str
    stopped_s: float = 0.0


def plan_faults(seed: int, events: int, faults: int, workers: int) -> list[Fault]:
    """Faults in the order in which they strike; the same for the same seed."""
    chance = random.Random(seed)
    targets = (*SERVERS, *(_worker_name(number) for number in range(workers)))
    moments = sorted(chance.randrange(events // 20, events) for _ in range(faults))
    # Every target at least once, where there are enough faults.
    struck = [*targets, *(chance.choice(targets) for _ in range(faults))][:faults]
    chance.shuffle(struck)
    return [
        Fault(at, chance.choice(list(FaultKind)), target, round(chance.uniform(*_STOPPED_S), 1))
        for at, target in zip(moments, struck, strict=True)
    ]


def _worker_name(number: int) -> str:
    return f"worker-{number}"


@dataclass
class Fleet:
    """Servers and workers, and what became of them.

    Attributes:
        wanted: settings without addresses, by which a server is started again.
        ended: how often each worker ended by itself, by its name and exit code.
        loops: workers that ended again and again while nothing was committed.
    """

    wanted: Settings
    workers: Mapping[str, WorkerProcess]
    progress: ConsumerProgress
    ended: Counter[str] = field(default_factory=Counter)
    loops: set[str] = field(default_factory=set)
    _since_commit: Counter[str] = field(default_factory=Counter)
    _committed: int = 0

    def strike(self, fault: Fault) -> None:
        """Carry a fault out; returns once the process runs again."""
        if (worker := self.workers.get(fault.target)) is not None:
            self._strike_worker(worker, fault)
        else:
            self._strike_server(fault)

    def _strike_worker(self, worker: WorkerProcess, fault: Fault) -> None:
        if not worker.running:
            return
        match fault.kind:
            case FaultKind.KILL:
                worker.kill()
                worker.start()
            case FaultKind.STOP:
                worker.signal(signal.SIGSTOP)
                time.sleep(fault.stopped_s)
                worker.signal(signal.SIGCONT)
            case FaultKind.RESTART:
                worker.end()
                worker.start()

    def _strike_server(self, fault: Fault) -> None:
        pids = {server.name: server.pid for server in local.status(self.wanted)}
        pid = pids[fault.target]
        if fault.kind is FaultKind.RESTART:
            local.down(self.wanted, only=[fault.target])
        elif pid is not None and fault.kind is FaultKind.KILL:
            os.kill(pid, signal.SIGKILL)
        elif pid is not None:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(fault.stopped_s)
            os.kill(pid, signal.SIGCONT)
        local.up(self.wanted, only=[fault.target])

    def supervise(self) -> None:
        """Start again what has ended by itself, and take note of it."""
        for name, worker in self.workers.items():
            if worker.process is None or worker.process.poll() is None:
                continue
            self.ended[f"{name}: exit {worker.process.returncode}"] += 1
            self._since_commit[name] += 1
            if self._since_commit[name] >= _CIRCLE:
                self.loops.add(name)
            worker.start()

    def wait_for_all(self) -> int:
        """Wait until all is committed; how many messages are not, when time is up."""
        deadline = time.monotonic() + _WAIT_S
        while (left := self.progress.count_produced() - self._look()) and (
            time.monotonic() < deadline
        ):
            self.supervise()
            time.sleep(_LOOK_S)
        return left

    def _look(self) -> int:
        committed = self.progress.count_committed()
        if committed > self._committed:
            self._committed = committed
            self._since_commit.clear()
        return committed


def run_soak(fleet: Fleet, kafka_up: Settings, log: Log, plan: Sequence[Fault], rate: float) -> int:
    """Send the log at a rate while the plan strikes; how many messages stay uncommitted."""
    left = list(plan)
    begun = looked = time.monotonic()
    with EventProducer(kafka_up.kafka.client_settings) as producer:
        for item in log.items:
            producer.send(item)
        producer.flush(_WAIT_S)
        for number, event in enumerate(log.events):
            while left and left[0].at_event <= number:
                fleet.strike(left.pop(0))
            producer.send(event)
            ahead_s = number / rate - (time.monotonic() - begun)
            if ahead_s > 0:
                time.sleep(ahead_s)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                fleet.supervise()
        producer.flush(_WAIT_S)
    return fleet.wait_for_all()


def compare_rows(settings: Settings, logged: Sequence[oracle.Logged]) -> Counter[str]:
    """How many events rows have too few, and too many: over people, and over items."""
    schema, found = FeatureSchema(settings.features), Counter(lost=0, double=0)
    people = oracle.by(logged, "user_id")
    ids = [str(name) for (name,) in people]
    size = len(schema.user_half_lives)
    rows = read_rows(settings, "user_id", ids, ["user_activity:counters"])
    for name, row in zip(ids, rows, strict=True):
        counters = row["counters"] or [0.0] * size
        # The last counter of each type does not decay.
        _compare(len(people[name,]), round(sum(counters[size - 1 :: size])), found)
    items = oracle.by(logged, "item_id")
    names = [str(name) for (name,) in items]
    columns = item_sources(settings.kafka.partitions)
    rows = read_rows(settings, "item_id", names, [f"item_popularity:{c}" for c in columns])
    for name, row in zip(names, rows, strict=True):
        counted = sum(round(row[column][-1]) for column in columns if row[column] is not None)
        _compare(len(items[name,]), counted, found)
    return found


def _compare(expected: int, counted: int, found: Counter[str]) -> None:
    found["lost"] += max(0, expected - counted)
    found["double"] += max(0, counted - expected)


def count_unanswered(settings: Settings, logged: Sequence[oracle.Logged]) -> int:
    """People none of whose last events, of the topics, has a recommendation.

    A micro-batch is answered once a person, for the last of the person's events in it.
    """
    decode = msgspec.json.Decoder(Recommendation).decode
    values = oracle.read_topic(settings, RECOMMENDATIONS, settings.kafka.partitions)
    answered = {decode(value).event_id for _, _, value in values}
    last: dict[str, dict[str, oracle.Logged]] = {}
    for event in sorted(logged, key=lambda event: event.offset):
        last.setdefault(event.user_id, {})[event.topic] = event
    return sum(
        answered.isdisjoint(event.event_id for event in events.values()) for events in last.values()
    )


@dataclass(frozen=True, kw_only=True)
class SoakOptions(DataOptions):
    """Options of `bench.soak`."""

    events: Annotated[int, typer.Option(min=1000)] = 20_000
    faults: Annotated[int, typer.Option(min=1)] = 12
    workers: Annotated[int, typer.Option(min=1)] = 3
    seed: Annotated[int, typer.Option(help="of the faults")] = 1
    rate: Annotated[float, typer.Option(help="events a second")] = 200.0


def measure(options: SoakOptions, console: Console) -> Results:
    """Send events through workers while faults strike, and compare the rows with the log."""
    log = options.load_log().head(options.events)
    plan = plan_faults(options.seed, len(log.events), options.faults, options.workers)
    with work_folder() as folder:
        wanted = local_settings(folder)
        try:
            settings = _start_servers(wanted, log, console)
            figures = _soak(wanted, settings, log, plan, options)
        finally:
            local.down(wanted)
    figures |= {"seed": options.seed, "plan": [asdict(fault) for fault in plan]}
    table = make_table(f"{len(log.events):,} events, seed {options.seed}", "", ("",))
    for name in (*KEYS, "uncommitted"):
        table.add_row(name, f"{figures[name]:,}")
    return Results(figures, [table, *(_describe(fault) for fault in plan)])


def _describe(fault: Fault) -> str:
    slept = f" for {fault.stopped_s} s" if fault.kind is FaultKind.STOP else ""
    return f"at event {fault.at_event:,}: {fault.kind} {fault.target}{slept}"


def _start_servers(wanted: Settings, log: Log, console: Console) -> Settings:
    training = TrainerSettings(max_seconds=_TRAIN_S)
    console.print(f"training a model for {_TRAIN_S:.0f} s, starting the servers ...")
    trained = train_first_model(log, FeatureSchema(wanted.features), TrainingSetup(training))
    settings = local.up(wanted)
    ensure_topics(settings.kafka)
    publish_first(trained, settings, training)
    return settings


def _soak(
    wanted: Settings, settings: Settings, log: Log, plan: Sequence[Fault], options: SoakOptions
) -> dict[str, Any]:
    workers = {
        name: WorkerProcess(settings, name, wanted.local.state_dir / f"{name}.log", group=GROUP)
        for name in map(_worker_name, range(options.workers))
    }
    fleet = Fleet(wanted, workers, ConsumerProgress(settings, GROUP))
    with running(*workers.values()):
        uncommitted = run_soak(fleet, settings, log, plan, options.rate)
    logged = oracle.read_log(settings)
    found = compare_rows(settings, logged)
    # What Kafka did not take would be missing on both sides.
    found["lost"] += len(log.events) - len(logged)
    return {
        "events": len(log.events),
        "faults": len(plan),
        **found,
        "unanswered": count_unanswered(settings, logged),
        "loops": len(fleet.loops),
        "uncommitted": uncommitted,
        "ended": dict(fleet.ended),
    }


BENCHMARK = Benchmark("soak", SoakOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
