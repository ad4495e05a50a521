"""Hostile messages over all topics, with everything running: who is up in the end, and what counts?

    python -m bench.soak.fuzz --messages 1000000

A worker, a trainer, a controller and the HTTP API run on real servers, and a rollout's feedback is
counted. Among the hostile messages (`bench.harness.hostile`) are good clicks. In the end each
process is the one that was started, each good click is counted once in its person's and its item's
row and stands in one window, the feedback is read to its end, and the API answers.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any
from urllib.request import Request, urlopen

import typer
from confluent_kafka import Producer
from headwater_client import decode, encode
from headwater_client.contract import RecommendationAnswer, Scope
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction
from headwater_client.topics import PARTITIONER
from rich.console import Console
from rich.table import Table

from bench.harness import processes
from bench.harness.hostile import GOOD, HostileMessage, generate_hostile_messages
from bench.harness.measure import memory_bytes
from bench.harness.runner import Benchmark, DataOptions, Results, work_folder
from bench.harness.servers import publish_first
from deploy import local
from deploy.local.process import free_port
from deploy.rollout.feedback.consumer import FeedbackConsumer
from deploy.rollout.feedback.ledger import FeedbackScope
from deploy.settings import CONFIG_VARIABLE, Settings
from features import columns
from features.kafka import client_config, ensure_sources
from features.schema import FeatureSchema
from features.store import USERS, RowRead, popularity_table
from features.store.redis import RedisRowStore
from stream.api.keys import make_key, write_keys
from trainer.registry import ModelRepository
from trainer.settings import TrainerSettings
from trainer.training import TrainingSetup, train_first_model
from trainer.windows.store import WindowStore

HOSTILE_TO_GOOD = 20
PEOPLE, ITEMS = 500, 50
AHEAD = 50_000
GROUP = "fuzz"
SPEC = EVENT_TYPES["click"]
SYSTEMS = ("worker", "trainer", "controller", "api")
# What is learned is no matter here: that the trainer reads on is.
_RULES = """
[trainer]
language_model = ""
[fine_tune]
replay = 1.0
"""
_TRAINING = TrainerSettings(max_seconds=3.0, language_model="")


@dataclass(frozen=True, kw_only=True)
class FuzzOptions(DataOptions):
    """What is sent; the log is what the first version has learned."""

    messages: Annotated[int, typer.Option(help="hostile messages", min=1)] = 100_000
    seed: Annotated[int, typer.Option(help="of the messages")] = 1


def good_click(number: int, now_ms: int) -> Interaction:
    """A click that must count."""
    return SPEC.struct(
        event_id=f"{GOOD}-{number}",
        user_id=f"{GOOD}-u{number % PEOPLE}",
        item_id=f"{GOOD}-i{number % ITEMS}",
        timestamp=now_ms - 1_000_000 + number,
    )


def mix_messages(options: FuzzOptions, now_ms: int) -> Iterator[HostileMessage]:
    """The hostile messages, with a good click after each few."""
    hostile = generate_hostile_messages(options.seed, now_ms)
    for number, message in enumerate(islice(hostile, options.messages)):
        yield message
        if number % HOSTILE_TO_GOOD == 0:
            click = good_click(number // HOSTILE_TO_GOOD, now_ms)
            yield HostileMessage(SPEC.topic, click.user_id.encode(), encode(click))


def count_good(options: FuzzOptions) -> int:
    """How many good clicks `mix_messages` has."""
    return (options.messages - 1) // HOSTILE_TO_GOOD + 1


class Fuzz:
    """Servers that run, and what runs on them."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self.windows = WindowStore(str(settings.local.state_dir / "windows"))
        self.api_port, keys_file = free_port(), settings.local.state_dir / "keys.toml"
        self._secret, key = make_key(GROUP, [Scope.ASK], None)
        write_keys(keys_file, [key])
        variables = processes.variables_of(
            {
                "windows.address": settings.local.state_dir / "windows",
                "windows.idle_s": 5,
                "api.port": self.api_port,
                "api.keys_file": keys_file,
            }
        )
        config = settings.local.state_dir / "headwater.toml"
        config.write_text(_RULES)
        variables[CONFIG_VARIABLE] = str(config)
        self.systems = {
            name: stack.enter_context(
                processes.run_system(
                    settings,
                    ("-m", "deploy.cli", name),
                    GROUP if name == "worker" else name,
                    variables=variables,
                )
            )
            for name in SYSTEMS
        }
        self.store = RedisRowStore(settings.store)
        scope = FeedbackScope("h1-7", int(time.time() * 1000), 600_000)
        sources = ensure_sources(settings.kafka)
        self.feedback = FeedbackConsumer(settings.kafka, self.store, sources, scope)
        stack.callback(self.feedback.close)
        self._producer = Producer(
            {**client_config(settings.kafka), "partitioner": PARTITIONER, "log_level": "0"}
        )

    def check(self) -> None:
        """Raise ServerError if a process has ended."""
        for system in self.systems.values():
            system.check()

    async def send(self, messages: Iterator[HostileMessage], console: Console) -> int:
        """Send all, no faster than the worker gets on; how many."""
        await self.feedback.start()
        sent = 0
        while part := list(islice(messages, 1_000)):
            for message in part:
                self._send(message)
            sent += len(part)
            self.feedback.absorb(0)
            self.check()
            if sent % AHEAD == 0:
                self._producer.flush()
                progress = self.systems["worker"].progress
                progress.wait_for(progress.count_produced() - AHEAD, 600, self.check)
                console.print(f"{sent} sent")
        self._producer.flush()
        return sent

    def _send(self, message: HostileMessage) -> None:
        while True:
            try:
                self._producer.produce(message.topic, message.value, message.key)
                return
            except BufferError:
                self._producer.poll(0.1)

    async def settle(self, good: int) -> None:
        """Wait until all is handled: by the worker, in windows, and as feedback."""
        progress = self.systems["worker"].progress
        progress.wait_for(progress.count_produced(), 600, self.check)
        deadline = time.monotonic() + 120
        while (found := sum(self.good_in_windows().values())) < good:
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"windows hold {found} of {good} good clicks")
            await asyncio.sleep(1)
        for _ in range(100):
            self.feedback.absorb(0.1)
        await self.feedback.flush()

    def count_answers(self) -> int:
        """How many people of good clicks the API answers, with a version's list."""
        url = f"http://127.0.0.1:{self.api_port}/v1/recommendations"
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        answered = 0
        for number in range(PEOPLE):
            body = encode({"person": f"{GOOD}-u{number}"})
            request = Request(url, body, headers, method="POST")
            with urlopen(request, timeout=60) as answer:  # noqa: S310
                answered += not decode(RecommendationAnswer, answer.read()).fallback
        return answered

    def good_in_windows(self) -> Counter[str]:
        """How often each good click stands in windows."""
        found: Counter[str] = Counter()
        for number in self.windows.numbers():
            events = (row.event.event_id for row in self.windows.read(number).rows)
            found.update(name for name in events if name.startswith(GOOD))
        return found

    async def count_wrong_rows(self, options: FuzzOptions) -> int:
        """People and items of good clicks whose rows do not hold each once."""
        clicks = range(count_good(options))
        schema, table = (
            FeatureSchema(self.settings.features),
            popularity_table(self.settings.kafka.partitions),
        )
        people = Counter(f"{GOOD}-u{number % PEOPLE}" for number in clicks)
        items = Counter(f"{GOOD}-i{number % ITEMS}" for number in clicks)
        stored = await self.store.read([RowRead(USERS, name, USERS.columns) for name in people])
        rows = [columns.decode_user(each, schema) for each in stored]
        counted = [round(row.counters[len(schema.user_half_lives) - 1]) for row in rows]
        stored = await self.store.read([RowRead(table, name, table.columns) for name in items])
        groups = [
            sum(columns.decode_group(value, schema).values[-1] for value in each.values())
            for each in stored
        ]
        wrong = [found != wanted for found, wanted in zip(counted, people.values(), strict=True)]
        wrong += [round(f) != wanted for f, wanted in zip(groups, items.values(), strict=True)]
        return sum(wrong)


def measure(options: FuzzOptions, console: Console) -> Results:
    """Send, wait, compare."""
    with work_folder() as folder:
        wanted = processes.local_settings(folder)
        try:
            training = TrainingSetup(_TRAINING)
            trained = train_first_model(
                options.load_log(), FeatureSchema(wanted.features), training
            )
            settings = local.up(wanted)
            publish_first(trained, settings, _TRAINING)
            with ExitStack() as stack:
                fuzz = Fuzz(settings, stack)
                return asyncio.run(_run(fuzz, options, console))
        finally:
            local.down(wanted)


async def _run(fuzz: Fuzz, options: FuzzOptions, console: Console) -> Results:
    start, good = time.monotonic(), count_good(options)
    sent = await fuzz.send(mix_messages(options, int(time.time() * 1000)), console)
    await fuzz.settle(good)
    windows = fuzz.good_in_windows()
    figures: dict[str, Any] = {
        "messages": sent,
        "good": good,
        "processes_ended": 0,
        "wrong_rows": await fuzz.count_wrong_rows(options),
        "good_missing_in_windows": good - len(windows),
        "good_twice_in_windows": sum(count > 1 for count in windows.values()),
        "people_answered": fuzz.count_answers(),
        "versions": len(ModelRepository(fuzz.settings.model_repository).version_numbers()),
        "memory_mb": {
            name: memory_bytes(system.process.pid) // 1024**2
            for name, system in fuzz.systems.items()
        },
        "seconds": round(time.monotonic() - start),
    }
    await fuzz.store.close()
    table = Table("figure", "value", box=None)
    for name, value in figures.items():
        table.add_row(name, str(value))
    return Results(figures, [table])


BENCHMARK = Benchmark("fuzz", FuzzOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
