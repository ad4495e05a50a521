"""Read your writes: whether each answer knows its request's events, and each event counts once.

    uv run python -m bench.api.writes

People act and ask at random moments while the worker runs, is paused (SIGSTOP) and is killed, which
is drawn too. The row that an answer is made from is compared with a recomputation of all that the
person did; in the end every stored row is.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from headwater_client import EventProducer
from headwater_client.errors import ServerError
from rich.console import Console, RenderableType

from bench.api.known_people import ITEMS, KnownPeople, category_of
from bench.harness import processes
from bench.harness.runner import Benchmark, Options, Quick, Results, make_table, work_folder
from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics

RUNS, PAUSED, KILLED = "runs", "paused", "killed"
_SETTLE_S = 120.0
_LOOK_S = 0.2
_EVENTS_A_PERSON = 20
_QUICK_REQUESTS = 500
# So many requests, at least and at most, between two changes of the worker's state.
_CHANGE_AFTER = (20, 200)


@dataclass(frozen=True, kw_only=True)
class WritesOptions(Options):
    """Options of `bench.api.writes`."""

    requests: Annotated[int, typer.Option(help="requests that are checked", min=1)] = 10_000
    seed: Annotated[int, typer.Option(help="of who does what, and when the worker fails")] = 1
    quick: Quick = False


class FailingWorker:
    """A worker process that is paused, killed and started again."""

    def __init__(self, settings: Settings) -> None:
        self._log = settings.local.state_dir / "logs" / "worker.log"
        self._variables = processes.worker_variables(settings, "writes")
        self.state = KILLED
        self._process: subprocess.Popen[bytes] | None = None

    def bring(self, state: str) -> None:
        """Let it be in a state: it runs, is paused, or is dead."""
        if self.state == KILLED and state != KILLED:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, *processes.WORKER],
                    env=self._variables,
                    stdout=log,
                    stderr=log,
                )
        self.check()
        assert self._process is not None
        if state == KILLED:
            self._process.kill()
            self._process.wait()
        elif state != self.state or state == PAUSED:
            self._process.send_signal(signal.SIGSTOP if state == PAUSED else signal.SIGCONT)
        self.state = state

    def check(self) -> None:
        """Raise ServerError if it has ended by itself."""
        process = self._process
        if self.state != KILLED and process is not None and process.poll() is not None:
            end = self._log.read_text(errors="replace")[-2000:]
            raise ServerError(f"the worker ended with exit code {process.returncode}: {end}")

    def end(self) -> None:
        """Stop it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            processes.end_process(self._process)


@dataclass
class WritesFound:
    """What came of the requests.

    Attributes:
        requests: by the worker's state.
        wrong: how rows differed, and how often.
        unsettled: stored rows that are not what their people did, in the end.
    """

    requests: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    unsettled: list[str] = field(default_factory=list)
    events: int = 0
    kills: int = 0
    took_s: float = 0.0

    def summarise(self) -> dict[str, Any]:
        """The figures."""
        return {
            "requests": dict(self.requests),
            "wrong": sum(self.wrong.values()),
            "wrong_parts": dict(self.wrong),
            "events": self.events,
            "wrong_rows": len(self.unsettled),
            "kills": self.kills,
            "took_s": self.took_s,
        }


@contextmanager
def run_servers() -> Iterator[Settings]:
    """Kafka and a store with a catalogue: no version is announced, and none is asked."""
    with work_folder() as folder:
        wanted = processes.local_settings(Path(folder))
        try:
            settings = local.up(wanted, only=["kafka", "store"])
            triton = settings.triton.model_copy(update={"url": "127.0.0.1:9"})
            settings = settings.model_copy(update={"triton": triton})
            ensure_topics(settings.kafka)
            with EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer:
                for name in (f"i{number}" for number in range(ITEMS)):
                    producer.item(name, category=[category_of(name)])
            yield settings
        finally:
            local.down(wanted)


async def ask_often(
    settings: Settings, worker: FailingWorker, options: WritesOptions
) -> WritesFound:
    """All requests, then a look at all stored rows."""
    requests = _QUICK_REQUESTS if options.quick else options.requests
    found, draw, begin = WritesFound(), random.Random(options.seed), time.perf_counter()
    people = KnownPeople(settings, max(1, requests // _EVENTS_A_PERSON), options.seed)
    try:
        left = 0
        for _ in range(requests):
            if left == 0:
                left, before = draw.randint(*_CHANGE_AFTER), worker.state
                worker.bring(draw.choice([RUNS, RUNS, PAUSED, KILLED]))
                found.kills += KILLED == worker.state != before
            left -= 1
            found.requests[worker.state] += 1
            if difference := await people.act():
                found.wrong[difference] += 1
        worker.bring(RUNS)
        deadline = time.monotonic() + _SETTLE_S
        while (differences := await people.find_differences()) and time.monotonic() < deadline:
            worker.check()
            await asyncio.sleep(_LOOK_S)
        found.unsettled = differences
        found.events = sum(map(len, people.log.values()))
    finally:
        await people.close()
    found.took_s = time.perf_counter() - begin
    return found


def show(found: WritesFound) -> Sequence[RenderableType]:
    """The figures for people."""
    table = make_table("Read your writes", "worker", ("requests",))
    for state, number in found.requests.items():
        table.add_row(state, f"{number:,}")
    of_what = f"({found.events:,} events recorded, {found.kills} kills)"
    return [
        table,
        f"answers whose row is not the recomputation: {sum(found.wrong.values())}",
        f"stored rows that are not, in the end: {len(found.unsettled)} {of_what}",
    ]


def measure(options: WritesOptions, console: Console) -> Results:
    """Check that each answer knows its request's events, whatever the worker does."""
    console.print("starting Kafka and a store ...")
    with run_servers() as settings:
        worker = FailingWorker(settings)
        try:
            worker.bring(RUNS)
            progress = processes.ConsumerProgress(settings, "writes")
            progress.wait_for(ITEMS, _SETTLE_S, worker.check)
            found = asyncio.run(ask_often(settings, worker, options))
        finally:
            worker.end()
    return Results(found.summarise(), show(found))


BENCHMARK = Benchmark("api.writes", WritesOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
