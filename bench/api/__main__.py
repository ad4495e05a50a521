"""The HTTP API: how many requests a second one core answers, and how soon.

    uv run python -m bench.api
    uv run python -m bench.api --items 100000

Kafka, the store, Triton and the service share one core, each answer is made from the person's
present row. Whoever asks has a core of its own.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from headwater_client.contract import Scope
from rich.console import Console, RenderableType

from bench.api.gorse import measure_gorse
from bench.api.requests import HttpAnswers, Target, send_all, wait_until_answered
from bench.harness import processes
from bench.harness.load import Workload, mix_people
from bench.harness.measure import Measurement
from bench.harness.runner import Benchmark, Cores, DataOptions, Quick, Results, make_table
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from deploy.local.process import free_port
from stream.api.keys import make_key, write_keys
from trainer.datasets import Log

API = ("-m", "deploy.cli", "api")
CANDIDATES = BATCH = 100
SHARES = (0.01, 0.1, 0.9)
_TIMEOUT_S = 600.0
_START_S = 60.0
_REQUESTS = 5_000
_SEED = 7


@dataclass(frozen=True, kw_only=True)
class ApiPlan(LoadPlan):
    """How much is measured: seconds of each kind of request, on so many connections.

    Attributes:
        rounds: over all kinds, so that what else the machine does in a while is in all alike.
    """

    seconds: float = 20.0
    connections: int = 64
    rounds: int = 4


QUICK = ApiPlan(seconds=3.0, rounds=1, train_s=3.0, log_events=20_000)


@dataclass(frozen=True, kw_only=True)
class ApiOptions(DataOptions):
    """Options of `bench.api`."""

    cores: Cores = 1
    quick: Quick = False
    gorse: Annotated[bool, typer.Option(help="Gorse beside, built by Go from its module")] = False
    items: Annotated[
        int, typer.Option(help="in the catalogue, made-up ones beside the log's", min=0)
    ] = 0


def make_requests(log: Log, target: Target) -> dict[str, list[bytes]]:
    """Requests of each kind, for people of the log drawn at random."""
    draw = random.Random(_SEED)
    people = sorted({event.user_id for event in log.events})
    items = sorted({event.item_id for event in log.events})

    def encode_some(path: str, make_body: Any) -> list[bytes]:
        return [target.encode(path, make_body(draw.choice(people))) for _ in range(_REQUESTS)]

    def with_event(person: str) -> dict[str, Any]:
        return {"person": person, "events": [{"type": "click", "item_id": draw.choice(items)}]}

    def with_filter(share: float) -> Callable[[str], dict[str, Any]]:
        """A filter that leaves about this share of the items, by their prices."""
        return lambda person: {"person": person, "filter": f"item.price < {share}"}

    def encode_batch(size: int) -> list[bytes]:
        return [
            target.encode("/v1/events", [make_event() for _ in range(size)])
            for _ in range(_REQUESTS // size)
        ]

    def make_event() -> dict[str, Any]:
        return {"type": "click", "user_id": draw.choice(people), "item_id": draw.choice(items)}

    def with_candidates(person: str) -> dict[str, Any]:
        return {"person": person, "items": draw.sample(items, CANDIDATES)}

    return {
        "recommendations": encode_some("/v1/recommendations", lambda person: {"person": person}),
        "with an event": encode_some("/v1/recommendations", with_event),
        **{
            f"a filter leaves {share:.0%}": encode_some("/v1/recommendations", with_filter(share))
            for share in SHARES
        },
        f"rank {CANDIDATES}": encode_some("/v1/rank", with_candidates),
        "similar items": encode_some(
            "/v1/items/similar", lambda _: {"items": [draw.choice(items)]}
        ),
        "one event": encode_batch(1),
        f"{BATCH} events": encode_batch(BATCH),
    }


def measure_service(loaded: LoadedServers, plan: ApiPlan) -> dict[str, Any]:
    """Each kind of request: as fast as they are answered, then at half of that rate."""
    secret, key = make_key("bench", list(Scope), None)
    keys_file = Path(loaded.settings.local.state_dir) / "keys.toml"
    write_keys(keys_file, [key])
    target = Target(free_port([]), secret)
    variables = processes.variables_of({"api.port": target.port, "api.keys_file": keys_file})
    started = f"http://127.0.0.1:{target.port}/startupz"
    with loaded.run(API, "api", variables) as system:
        wait_until_answered(
            lambda: httpx.get(started, timeout=5).raise_for_status(),
            _START_S,
            "the service does not answer",
        )

        def say(text: str) -> None:
            loaded.say(text)
            system.check()

        return measure_requests(target, make_requests(loaded.log, target), plan, say)


def measure_requests(
    target: Target, kinds: Mapping[str, Sequence[bytes]], plan: ApiPlan, say: Callable[[str], None]
) -> dict[str, Any]:
    """Of each kind: as fast as they are answered, and at half of that rate."""

    def send(name: str, seconds: float, rate: float | None = None) -> HttpAnswers:
        return asyncio.run(send_all(target, kinds[name], seconds, plan.connections, rate))

    most = {name: HttpAnswers() for name in kinds}
    half = {name: HttpAnswers() for name in kinds}
    seconds = plan.seconds / plan.rounds
    for number in range(plan.rounds):
        for name in kinds:
            say(f"round {number + 1}: {name}: {seconds:.0f} s as fast as they are answered ...")
            send(name, 1.0)
            most[name].add(send(name, seconds))
            half[name].add(send(name, seconds, most[name].requests_per_second / 2))
    return {
        name: {"most": most[name].summarise(), "half": half[name].summarise()} for name in kinds
    }


def show(found: Mapping[str, Any], options: ApiOptions) -> Sequence[RenderableType]:
    """The figures for people."""
    cores = f"{options.cores} core{'s' * (options.cores > 1)}"
    catalogue = f", {options.items:,} items" if options.items else ""
    title = f"The HTTP API, service and servers on {cores}{catalogue}"
    table = make_table(title, "", ("requests/s", "ms, p50 / p99", "at half: p50 / p99"))
    for name, kind in found.items():
        most, half = kind["most"], kind["half"]
        table.add_row(
            name,
            f"{most['requests_per_second']:,.0f}",
            f"{most['p50_ms']:.0f} / {most['p99_ms']:.0f}",
            f"{half['p50_ms']:.0f} / {half['p99_ms']:.0f}",
        )
    fallbacks = sum(kind[load]["fallbacks"] for kind in found.values() for load in kind)
    return [table, f"fallbacks {fallbacks}"]


def measure(options: ApiOptions, console: Console) -> Results:
    """Measure the HTTP API on people with half a log of history."""
    plan = QUICK if options.quick else ApiPlan()
    workload = Workload(options.source, limit=plan.log_events, items=options.items)
    with run_loaded_servers(plan, workload, options.cores, console) as loaded:
        history = len(loaded.log.events) // 2
        loaded.say(f"{history:,} events of history ...")
        with loaded.run(processes.WORKER, "headwater") as worker:
            Measurement(worker, loaded.load, _TIMEOUT_S).prepare(history)
        found = measure_service(loaded, plan)
        if options.gorse:
            sent = mix_people(loaded.log.events)[:history]

            def ask(target: Target, name: str, requests: list[bytes]) -> None:
                found.update(measure_requests(target, {name: requests}, plan, loaded.say))

            measure_gorse(loaded, sent, ask)
    return Results(
        {"cores": options.cores, "items": options.items, "requests": found}, show(found, options)
    )


BENCHMARK = Benchmark("api", ApiOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
