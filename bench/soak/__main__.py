"""A soak: events through a whole fleet while faults strike, and nothing is lost, double or silent.

    uv run python -m bench.soak --events 1000000 --faults 100 --seed 1

Three workers, a trainer and two controllers run on real servers. What strikes when is drawn from
the seed (`bench.soak.plan`); what ends by itself is started again, as an orchestrator does. In the
end every row is compared with a recomputation from the log, windows hold each message once, each
event has an answer, nothing lags behind, and no process goes round in a loop.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import structlog
import typer
from headwater_client import EventProducer
from headwater_client.events import Interaction
from msgspec.structs import replace
from pydantic import SecretStr
from rich.console import Console

from bench.harness import processes
from bench.harness.disks import Disk
from bench.harness.hostile import GOOD
from bench.harness.load import Order, generate_workload
from bench.harness.runner import Benchmark, DataOptions, Results, make_table, work_folder
from bench.harness.servers import publish_first
from bench.soak import checks, fleet
from bench.soak.plan import PROXIES, Fault, FaultKind, plan_faults
from bench.soak.proxy import FaultyProxy
from deploy import local
from deploy.local.process import free_port
from deploy.local.store import feature_repo
from deploy.settings import CONFIG_VARIABLE, Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from trainer.datasets import Log
from trainer.registry import ModelRepository
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, train_first_model

GROUP = "soak"
CLOCK = Path(__file__).with_name("clock")
NONE_OF = ("lost", "double", "unanswered", "loops", "wrong_rows", "refused", "lag")
KEYS = ("events", "faults", "lost", "double", "unanswered", "loops")
_TRAINING = TrainerSettings(max_seconds=3.0, language_model="")
# Of the events so many are sent twice, at once: each counts once.
_REPEATED_EACH = 40
_AHEAD, _LOOK_EACH, _POLL_S = 20_000, 200, 0.05
_SETTLE_S = 900.0
_SECRET = token_hex(32)
# Windows close quickly, a gate lets pass what chance does, and a rollout takes seconds.
_RULES = """
[windows]
allowed_lateness_s = 0
idle_s = 3
[trainer]
language_model = ""
release = "canary"
[fine_tune]
replay = 1.0
[gate]
margin = 0.9
max_doubt = 1
max_latency_ms = 60000
max_slowdown = 1000
max_growth = 1000
[rollout]
steps = [0.1, 0.5]
shadow_s = 2
min_step_s = 5
margin = 0.5
max_harm = 0.9
"""


@dataclass(frozen=True, kw_only=True)
class SoakOptions(DataOptions):
    """Options of `bench.soak`."""

    events: Annotated[int, typer.Option(min=1000)] = 20_000
    faults: Annotated[int, typer.Option(min=1)] = 20
    workers: Annotated[int, typer.Option(min=1)] = 3
    seed: Annotated[int, typer.Option(help="of the faults")] = 1
    rate: Annotated[float | None, typer.Option(help="events a second; as many as go")] = None
    work: Annotated[Path | None, typer.Option(help="keep logs and data here")] = None


@dataclass
class Soak:
    """One soak: what is sent, what strikes, what came of it.

    Attributes:
        sent: events that were handed to the producer; those sent again are not counted.
        told: what each fault did.
        parked: set while nothing is sent, and Kafka has all that was.
    """

    options: SoakOptions
    log: Log
    fleet: fleet.Fleet
    kept: checks.KeptLog
    console: Console
    sent: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    parked: threading.Event = field(default_factory=threading.Event)
    _next_at: int | None = None

    def run(self, plan: Sequence[Fault]) -> bool:
        """Send all while the plan strikes; whether all was handled in the end."""
        striking = threading.Thread(target=self._strike_all, args=(plan,), name="soak-faults")
        with EventProducer(self.fleet.settings.kafka.client_settings) as producer:
            for item in self.log.items:
                producer.send(item)
            producer.flush(_SETTLE_S)
            # An event counts under the categories that are known when it is absorbed.
            self._wait(lambda: self.fleet.committed > 0 and not self.fleet.lag)
            striking.start()
            try:
                self._send(producer)
                producer.flush(_SETTLE_S)
                self.parked.set()
            finally:
                striking.join()
        return self.settle()

    def settle(self) -> bool:
        """Wait until rows, answers and windows hold all that was sent; whether they do."""
        # As of a look after the last was sent.
        time.sleep(2)
        settings = self.fleet.settings
        return self._wait(lambda: not self.fleet.lag and checks.windows_hold_all(settings))

    def keep(self, topic: str) -> None:
        """Wait until a topic can be deleted, and remember what it has.

        Raises:
            TimeoutError: workers or windows do not come to the end of it.
        """
        self.parked.wait()
        if not self.settle():
            raise TimeoutError("not all was handled before the topic was to be deleted")
        self.kept.keep(topic)

    def _send(self, producer: EventProducer) -> None:
        begun = time.monotonic()
        for number, event in enumerate(self._generate_events()):
            if number % _LOOK_EACH == 0:
                self._pace(number, begun, producer)
            producer.send(event)
            if number % _REPEATED_EACH == 0:
                producer.send(event)
            self.sent = number + 1

    def _generate_events(self) -> Iterator[Interaction]:
        events = generate_workload(self.log.events, Order.MIXED)
        for number, event in zip(range(self.options.events), events, strict=False):
            yield replace(
                event,
                event_id=f"{GOOD}-{number}",
                user_id=f"{GOOD}-{event.user_id}",
                timestamp=int(time.time() * 1000),
            )

    def _pace(self, number: int, begun: float, producer: EventProducer) -> None:
        """Wait while workers are too far behind, or nothing is to be sent."""
        if not self.fleet.sending.is_set():
            producer.flush(_SETTLE_S)
            self.parked.set()
            self.fleet.sending.wait()
            self.parked.clear()
        if self.options.rate:
            time.sleep(max(0.0, number / self.options.rate - (time.monotonic() - begun)))
        # Strikes come one after another: events do not run away from them.
        while self.fleet.lag > _AHEAD or self._is_due(number):
            if not self.fleet.sending.is_set():
                return
            time.sleep(_POLL_S)

    def _is_due(self, number: int) -> bool:
        return self._next_at is not None and number > self._next_at + self._slack

    @property
    def _slack(self) -> int:
        return max(1000, self.options.events // 50)

    def _strike_all(self, plan: Sequence[Fault]) -> None:
        try:
            for number, fault in enumerate(plan):
                self._next_at = fault.at_event
                while self.sent < min(fault.at_event, self.options.events):
                    time.sleep(_POLL_S)
                self._strike(number, fault)
        finally:
            self._next_at = None

    def _strike(self, number: int, fault: Fault) -> None:
        before, begun = self._count_ended(), time.monotonic()
        error = ""
        try:
            self.fleet.strike(fault)
        except Exception as problem:  # noqa: BLE001  (told; the soak goes on)
            error = f"{type(problem).__name__}: {problem}"
        committed, struck = self.fleet.committed, time.monotonic()
        while self.fleet.committed <= committed and self.fleet.lag:
            if time.monotonic() - struck > 120:
                error = error or "nothing was committed for two minutes"
                break
            time.sleep(_POLL_S)
        ended = {name: count - before[name] for name, count in self._count_ended().items()}
        line = {
            "fault": fault.describe(),
            "at_event": fault.at_event,
            "lasted_s": round(struck - begun, 1),
            "committed_again_s": round(time.monotonic() - struck, 1),
            "ended": {name: count for name, count in ended.items() if count},
            "error": error,
        }
        self.told.append(line)
        self.console.print(
            f"{number + 1}: {line['fault']} at {fault.at_event:,}: lasted {line['lasted_s']} s, "
            f"committed again after {line['committed_again_s']} s, ended {line['ended']} {error}",
            highlight=False,
            soft_wrap=True,
        )

    def _count_ended(self) -> dict[str, int]:
        return {name: each.ended.total() for name, each in self.fleet.services.items()}

    def _wait(self, true: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _SETTLE_S
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    def judge(self, settled: bool) -> dict[str, Any]:
        """The figures, once all was sent."""
        settings, services = self.fleet.settings, self.fleet.services
        every = self.kept.read()
        log = checks.drop_repeats(every)
        schema = FeatureSchema(settings.features)
        parts = {
            "rows": checks.compare_counts(settings, log, len(schema.user_half_lives)),
            "windows": checks.compare_windows(settings.windows_address, every),
            # What Kafka did not take would be missing on all sides.
            "kafka": checks.Findings(lost=max(0, self.options.events - len(log))),
        }
        found = sum(parts.values(), checks.Findings())
        categories = {item.item_id: item.category for item in self.log.items}
        answers = checks.read_answers(settings)
        unanswered = checks.list_unanswered(log, answers)
        wrong = checks.list_wrong_rows(settings, log, categories)
        return {
            "events": len(log),
            "sent_twice": len(every) - len(log),
            "faults": len(self.told),
            "lost": found.lost,
            "double": found.double,
            "found_in": {name: asdict(part) for name, part in parts.items()},
            "wrong_rows": len(wrong),
            "refused": checks.count_refused(settings),
            "unanswered": len(unanswered),
            "loops": sum(each.looped for each in services.values()),
            "settled": settled,
            "lag": self.fleet.lag,
            "versions": len(ModelRepository(settings.model_repository).version_numbers()),
            "ended": {name: dict(each.ended) for name, each in services.items() if each.ended},
            "told": self.told,
            "first_unanswered": [
                asdict(each) | {"near": checks.list_near(each, log, answers)}
                for each in unanswered[:5]
            ],
            "first_wrong": wrong[:5],
        }


def measure(options: SoakOptions, console: Console) -> Results:
    """Send events through a fleet while faults strike, and compare rows and windows with them."""
    log = options.load_log()
    begun = time.monotonic()
    with work_folder(options.work) as folder, fleet.mount_disks(folder / "state") as disks:
        wanted = processes.local_settings(folder / "state")
        wanted = wanted.model_copy(
            update={"kafka": wanted.kafka.model_copy(update={"signing_key": SecretStr(_SECRET)})}
        )
        try:
            settings = _start_servers(wanted, log, console)
            with _run_soak(options, (wanted, settings), log, disks, console) as (soak, plan):
                settled = soak.run(plan)
                figures = soak.judge(settled)
        finally:
            local.down(wanted)
    figures |= {"seed": options.seed, "seconds": round(time.monotonic() - begun)}
    table = make_table(f"{options.events:,} events, seed {options.seed}", "", ("",))
    for name in (*KEYS, "wrong_rows", "refused", "lag", "versions", "seconds"):
        table.add_row(name, f"{figures[name]:,}")
    wrong = [f"{name} {figures[name]}" for name in NONE_OF if figures[name]]
    if not figures["settled"]:
        wrong.append("not settled")
    return Results(
        figures,
        [table, f"ended by themselves: {figures['ended']}"],
        fault=", ".join(wrong),
    )


def _start_servers(wanted: Settings, log: Log, console: Console) -> Settings:
    console.print(f"training a model for {_TRAINING.max_seconds:.0f} s, starting the servers ...")
    trained = train_first_model(log, FeatureSchema(wanted.features), TrainingSetup(_TRAINING))
    settings = local.up(wanted)
    ensure_topics(settings.kafka)
    publish_first(trained, settings, _TRAINING)
    # What reads rows by plain Feast in the end.
    feature_repo(settings)
    return settings


@contextmanager
def _run_soak(
    options: SoakOptions,
    settings: tuple[Settings, Settings],
    log: Log,
    disks: Mapping[str, Disk],
    console: Console,
) -> Iterator[tuple[Soak, list[Fault]]]:
    wanted, real = settings
    with ExitStack() as stack:
        ports = {name: free_port() for name in PROXIES}
        targets = {"store": real.store.address, "triton": real.triton.url}
        proxies = {
            name: stack.enter_context(
                FaultyProxy(port, int((targets[name] or "").rpartition(":")[2])).run()
            )
            for name, port in ports.items()
        }
        crew = _Crew(options, real, ports)
        kept = checks.KeptLog(real)
        services = {name: crew.service(name) for name in crew.names}
        found = fleet.Fleet(
            wanted, real, services, crew.service("worker-extra"), proxies, disks, crew.clocks, GROUP
        )
        kinds = set(FaultKind)
        if not disks:
            kinds.remove(FaultKind.FULL_DISK)
            console.print("disks do not fill: this user may not mount any")
        soak = Soak(options, log, found, kept, console)
        found.before_remake = soak.keep
        plan = plan_faults(options.seed, options.events, options.faults, list(services), kinds)
        with found.run():
            yield soak, plan


@dataclass
class _Crew:
    """What the processes of the fleet are started with."""

    options: SoakOptions
    settings: Settings
    ports: Mapping[str, int]
    clocks: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        workers = [f"worker-{number}" for number in range(self.options.workers)]
        return [*workers, "trainer", "controller-0", "controller-1"]

    def service(self, name: str) -> fleet.Service:
        state_dir = self.settings.local.state_dir
        variables = processes.worker_variables(self.settings, GROUP) | processes.variables_of(
            {
                "kafka.signing_key": _SECRET,
                "rollout.admin_token": _SECRET[::-1],
                "worker.name": name,
                "worker.group": GROUP,
                "windows.max_events": max(1000, self.options.events // 10),
                "store.address": f"127.0.0.1:{self.ports['store']}",
                "triton.url": f"127.0.0.1:{self.ports['triton']}",
            }
        )
        config = state_dir / "headwater.toml"
        config.write_text(_RULES)
        variables[CONFIG_VARIABLE] = str(config)
        if name.startswith("worker"):
            clock = self.clocks[name] = state_dir / f"{name}.clock"
            clock.write_text("0")
            variables |= {"PYTHONPATH": str(CLOCK), "SOAK_CLOCK": str(clock)}
        log = state_dir / "logs" / f"{name}.log"
        return fleet.Service(name, (name.partition("-")[0],), variables, log)


BENCHMARK = Benchmark("soak", SoakOptions, measure)

if __name__ == "__main__":
    # What our own calls of the product say of hostile messages, its processes say as well.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    BENCHMARK.main()
