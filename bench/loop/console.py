"""What looking costs: the CPU of the loop alone, beside a console, and with page "Now" open.

    uv run python -m bench.loop.console

Everything that works shares one core; whoever looks has another, and is not counted. Events come at
a constant rate; each round goes through all ways, and begins with another one each time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import httpx
import typer
from headwater_client.contract import Scope
from headwater_client.errors import ServerError
from rich.console import Console, RenderableType

from bench.api.requests import wait_until_answered
from bench.harness import processes
from bench.harness.load import Order, Sending, Workload
from bench.harness.measure import CpuMeter, Measurement
from bench.harness.runner import Benchmark, Cores, DataOptions, Quick, Results, make_table
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from deploy.local.process import free_port
from stream.api.keys import make_key, write_keys

CONSOLE = ("-m", "deploy.cli", "console")
NOBODY, CLOSED, OPEN = "no console", "a console, nobody looks", "page open"
WAYS = (NOBODY, CLOSED, OPEN)
LOOP = ("kafka", "store", "triton", "worker")
_TIMEOUT_S, _START_S, _SETTLE_S = 600.0, 60.0, 4.0
_PAGE = ("/", "/static/console.css", "/static/now.js", "/v1/admin/history?span=hour")


@dataclass(frozen=True, kw_only=True)
class LookPlan(LoadPlan):
    """How much is measured: rounds of all ways, seconds of each."""

    rounds: int = 4
    seconds: float = 30.0


QUICK = LookPlan(rounds=1, seconds=5.0, train_s=3.0, log_events=20_000)


@dataclass(frozen=True, kw_only=True)
class LookOptions(DataOptions):
    """Options of `bench.loop.console`."""

    cores: Cores = 1
    rate: Annotated[float, typer.Option(help="events a second")] = 300.0
    browsers: Annotated[int, typer.Option(help="that have the page open")] = 10
    quick: Quick = False


@dataclass(frozen=True)
class ConsoleAddress:
    """Where the console is, and with which key it is asked."""

    url: str
    secret: str
    keys_file: Path

    @property
    def variables(self) -> dict[str, str]:
        """Its settings."""
        port = self.url.rpartition(":")[2]
        # It looks at the group of the worker, and is no member of it.
        own = {"console.port": port, "api.keys_file": self.keys_file, "worker.group": "headwater"}
        return processes.variables_of(own)


class LookRun:
    """One run of the benchmark on running servers."""

    def __init__(self, loaded: LoadedServers, plan: LookPlan, options: LookOptions) -> None:
        self._loaded = loaded
        self._plan = plan
        self._options = options
        folder = Path(loaded.settings.local.state_dir)
        secret, key = make_key("bench", list(Scope), None)
        write_keys(folder / "keys.toml", [key])
        url = f"http://127.0.0.1:{free_port([])}"
        self._console = ConsoleAddress(url, secret, folder / "keys.toml")

    def measure(self) -> dict[str, list[dict[str, float]]]:
        """Milliseconds of CPU a second, by way, round and process."""
        metrics = processes.variables_of({"worker.metrics_port": (port := free_port([]))})
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        with self._loaded.run(processes.WORKER, "headwater", metrics) as worker:
            measurement = Measurement(worker, self._loaded.load, _TIMEOUT_S)
            self._loaded.say("giving people their histories ...")
            measurement.prepare(len(self._loaded.log.events) // 4)
            for turn in range(self._plan.rounds):
                for way in (*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]):
                    self._loaded.say(f"round {turn + 1}: {way}, {self._plan.seconds:.0f} s ...")
                    found[way].append(self._measure_way(way, worker, port))
        return found

    def _measure_way(
        self, way: str, worker: processes.SystemUnderTest, port: int
    ) -> dict[str, float]:
        with self._run_console(way, port) as console:
            pids = {name: self._loaded.servers.pids[name] for name in LOOP[:-1]}
            pids |= {"worker": worker.process.pid}
            if console:
                pids |= {"console": console.process.pid}
            browsers = self._options.browsers if way == OPEN else 0
            found = asyncio.run(self._measure_load(CpuMeter(pids), browsers))
            worker.check()
            return {"console": 0.0} | found

    @contextmanager
    def _run_console(self, way: str, port: int) -> Any:
        if way == NOBODY:
            with nullcontext() as nobody:
                yield nobody
            return
        variables = self._console.variables
        variables |= processes.variables_of({"worker.metrics_port": port})
        with self._loaded.run(CONSOLE, "console", variables) as console:
            started = f"{self._console.url}/startupz"
            wait_until_answered(
                lambda: httpx.get(started, timeout=5).raise_for_status(),
                _START_S,
                "the console does not answer",
            )
            yield console

    async def _measure_load(self, meter: CpuMeter, browsers: int) -> dict[str, float]:
        """The load at its rate, and who looks meanwhile: milliseconds of CPU a second."""
        rate, seconds = self._options.rate, self._plan.seconds
        self._loaded.load.take_answers()
        async with look(self._console, browsers) as seen:
            self._loaded.load.start(Sending(round(rate * (seconds + 2 * _SETTLE_S)), rate))
            await asyncio.sleep(_SETTLE_S)
            before, begin_s, frames = meter.read(), time.monotonic(), sum(seen)
            await asyncio.sleep(seconds)
            after, took_s, frames = meter.read(), time.monotonic() - begin_s, sum(seen) - frames
        await asyncio.to_thread(self._loaded.load.wait_sent)
        if browsers and not frames:
            raise ServerError(f"{browsers} browsers followed the page, and nothing came")
        used = {name: 1000 * (after[name] - used) / took_s for name, used in before.items()}
        return used | {"frames": frames / took_s}


@asynccontextmanager
async def look(console: ConsoleAddress, browsers: int) -> AsyncIterator[list[int]]:
    """So many have the page open, and follow it: how many frames each has read; the first came."""
    seen = [0] * browsers
    if not browsers:
        yield seen
        return
    session = await _log_in(console)
    async with asyncio.TaskGroup() as group:
        firsts = [asyncio.Event() for _ in seen]
        tasks = [
            group.create_task(_browse(console, session, seen, at, first))
            for at, first in enumerate(firsts)
        ]
        async with asyncio.timeout(_START_S):
            for first in firsts:
                await first.wait()
        yield seen
        for task in tasks:
            task.cancel()


async def _log_in(console: ConsoleAddress) -> httpx.Cookies:
    """A session, as a browser gets it: pages take no key."""
    async with httpx.AsyncClient(base_url=console.url, timeout=30) as client:
        answer = await client.post("/login", data={"key": console.secret})
        if answer.status_code != HTTPStatus.SEE_OTHER:
            raise ServerError(f"nobody can log in at the console: {answer.status_code}")
        return client.cookies


async def _browse(
    console: ConsoleAddress, session: httpx.Cookies, seen: list[int], at: int, first: asyncio.Event
) -> None:
    async with httpx.AsyncClient(base_url=console.url, cookies=session, timeout=30) as client:
        for path in _PAGE:
            (await client.get(path)).raise_for_status()
        async with client.stream("GET", "/v1/admin/live") as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    seen[at] += 1
                    first.set()


def summarise(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """The mean of the rounds, its error, and what each way adds to the one without a console.

    Attributes:
        added: of the CPU of the loop without a console.
        page_adds: of it, what the open page adds to a console that nobody looks at.
    """
    ways: dict[str, Any] = {}
    for way, rounds in found.items():
        names = rounds[0].keys()
        totals = [sum(each[name] for name in (*LOOP, "console")) for each in rounds]
        ways[way] = {
            "ms_a_second": {name: mean(each[name] for each in rounds) for name in names},
            "total": mean(totals),
            "error": stdev(totals) / len(totals) ** 0.5 if len(totals) > 1 else None,
        }
    alone = ways[NOBODY]["total"]
    for way in ways.values():
        way["added"] = way["total"] / alone - 1
    return {"ways": ways, "page_adds": (ways[OPEN]["total"] - ways[CLOSED]["total"]) / alone}


def show(report: Mapping[str, Any]) -> Sequence[RenderableType]:
    """The figures for people."""
    title = (
        f"Milliseconds of CPU a second at {report['rate']:.0f} events/s, "
        f"{report['browsers']} browsers, {report['cores']} core{'s' * (report['cores'] > 1)}"
    )
    table = make_table(title, "", WAYS)
    ways = report["ways"]
    for name in (*LOOP, "console"):
        table.add_row(name, *(f"{ways[way]['ms_a_second'][name]:.1f}" for way in WAYS))
    table.add_section()
    table.add_row("together", *(f"{ways[way]['total']:.1f}" for way in WAYS))
    errors = [ways[way]["error"] for way in WAYS]
    table.add_row("standard error", *("-" if e is None else f"{e:.1f}" for e in errors))
    table.add_row("added", *(f"{ways[way]['added']:.1%}" for way in WAYS))
    return [table, f"the open page adds {report['page_adds']:.1%} to the CPU of the loop"]


def measure(options: LookOptions, console: Console) -> Results:
    """Measure what a console, and the page that is open, add to the CPU of the loop."""
    plan = QUICK if options.quick else LookPlan()
    workload = Workload(options.source, Order.MIXED, plan.log_events)
    with run_loaded_servers(plan, workload, options.cores, console) as loaded:
        found = LookRun(loaded, plan, options).measure()
    about = {"cores": options.cores, "rate": options.rate, "browsers": options.browsers}
    report = {**about, **summarise(found)}
    return Results(report, show(report))


BENCHMARK = Benchmark("loop.console", LookOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
