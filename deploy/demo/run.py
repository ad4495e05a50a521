"""The demo's story: servers, data, a first model, a worker, and the rest of the log replayed.

A trainer may run beside the worker: what became of each window is told.
"""

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.documents import read_json
from headwater_client.errors import DataError, ServerError, SettingsError
from headwater_client.events import Interaction, Item

from deploy import local
from deploy.demo.screen import Screen, Watch, versions_table
from deploy.demo.tally import DemoTally, VersionHits, find_follow_ups, give_advice
from deploy.jobs.backfill import fill_rows_from_log
from deploy.jobs.replay import ReplayResult, immediate_pace, rate_pace, replay
from deploy.local.store import feature_repo
from deploy.progress import show_progress
from deploy.services.supervisor import Warn, supervise
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from trainer.datasets import DataSource, Log, load_log
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowLoader

START_S = 120.0
_POLL_S = 0.2
# Windows are closed by their number of events: event time goes by a thousand times too fast here.
_YEARS_S = 10 * 365 * 86_400

LogLine = Mapping[str, Any]
"""A line of the trainer's log."""


def window_settings(settings: Settings, events: int) -> Settings:
    """The settings with a window for so many events, in the demo's own folder."""
    changed = {"address": None, "duration_s": _YEARS_S, "max_events": events, "idle_s": 5.0}
    return settings.model_copy(update={"windows": settings.windows.model_copy(update=changed)})


def write_windows(settings: Settings, past: Log) -> int:
    """What happened before the replay as windows, which versions learn from; how many there are."""
    store = WindowStore(settings.windows_address)
    return sum(
        1 for _ in WindowLoader(past.fingerprint, store, settings.windows).write(past.events)
    )


class DemoTrainer:
    """A trainer at work, and its log."""

    def __init__(self, check: Callable[[], None], log: Path) -> None:
        self._check = check
        self._log = log
        self._read_bytes = 0
        self._reported = 0
        self._lines: list[LogLine] = []

    def wait(self) -> None:
        """Wait until it has read all windows so far.

        Raises:
            ServerError: it does not get there.
        """
        deadline = time.monotonic() + START_S
        while not any(line["event"] == "trainer_started" for line in self._lines):
            self._check()
            self._read_on()
            if time.monotonic() > deadline:
                raise ServerError(f"the trainer is not ready after {START_S:.0f} s: {self._log}")
            time.sleep(_POLL_S)

    def news(self) -> list[LogLine]:
        """What became of windows since the last call.

        Raises:
            ServerError: the trainer has ended too often.
        """
        self._check()
        self._read_on()
        fresh, self._reported = self.steps[self._reported :], len(self.steps)
        return fresh

    @property
    def steps(self) -> list[LogLine]:
        """What became of windows so far."""
        made = ("version_made", "no_new_version")
        return [line for line in self._lines if line["event"] in made]

    def _read_on(self) -> None:
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            # The last line may be half there.
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        # What a library warns of is no JSON.
        found = (line for line in whole.splitlines() if line.startswith(b"{"))
        self._lines += (read_json(line, dict) for line in found)


@contextmanager
def run_trainer(settings: Settings, warn: Warn) -> Iterator[DemoTrainer]:
    """Run a trainer for as long as the block."""
    log = settings.local.state_dir / "logs" / "trainer.log"
    with supervise("trainer", settings, log, warn) as check:
        yield DemoTrainer(check, log)


def describe_step(step: LogLine) -> str:
    """A step in a line for people."""
    windows = ", ".join(map(str, step["windows"]))
    if step["event"] == "no_new_version":
        return f"  windows {windows}: no new version: {step['reason']}"
    return (
        f"  version {step['version']} takes traffic: windows {windows}, NDCG@10 "
        f"{step['ndcg_at_10']:.3f} on what it had not learned (before {step['before']:.3f})"
    )


def summarise_learning(
    settings: Settings, steps: list[LogLine], versions: Mapping[str, VersionHits]
) -> dict[str, Any]:
    """Each version with what it showed, and how long the stages of making one took.

    `to_traffic_s` is the time from a window's close to the first recommendation of the version that
    learned from it, for each window.
    """
    store = WindowStore(settings.windows_address)
    made = {str(step["version"]): step for step in steps if step["event"] == "version_made"}
    rows = [
        _row(int(number), hits, made.get(number), store)
        for number, hits in sorted(versions.items(), key=lambda version: int(version[0]))
    ]
    waits = [wait for row in rows for wait in row.get("to_traffic_s", [])]
    stages = [row["stages_s"] for row in rows if "stages_s" in row]
    return {
        "versions": rows,
        "refused": [step["reason"] for step in steps if step["event"] == "no_new_version"],
        "to_traffic_s": {"median": median(waits), "worst": max(waits)} if waits else {},
        "stages_s": {name: median(one[name] for one in stages) for name in stages[0]}
        if stages
        else {},
    }


def _row(
    number: int, hits: VersionHits, step: LogLine | None, store: WindowStore
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": number,
        "asked": hits.asked,
        "hit_rate_at_10": round(hits.hit_rate, 4),
        "popularity": round(hits.popular_hit_rate, 4),
    }
    if step is None:
        return found
    closed = [store.manifest(window) for window in step["windows"]]
    stages = {name[:-2]: value for name, value in step.items() if name.endswith("_s")}
    waits = [round((hits.since_ms - one.closed_ms) / 1000, 3) for one in closed]
    stages["first_answer"] = round(max(waits[0] - sum(stages.values()), 0.0), 3)
    return found | {
        "windows": list(step["windows"]),
        "events": sum(one.events for one in closed),
        "to_traffic_s": waits,
        "stages_s": stages,
    }


POLL_S = 0.1


@dataclass(frozen=True)
class DemoOptions:
    """What the demo plays.

    Args:
        data: the log.
        events: how many events to replay; default: all that the model has not seen.
        rate: events a second; None: as fast as they go.
        learn_every: events of a window, which becomes a new version while the log is replayed;
            None: no trainer runs.
        train_share: the first part of the log: what the model learns from.
    """

    data: DataSource
    events: int | None = None
    rate: float | None = 400.0
    learn_every: int | None = None
    train_share: float = 0.8


@dataclass(frozen=True)
class DemoLog:
    """The log in its parts.

    Attributes:
        past: what the model learns from.
        live: what is replayed.
        later: events after those, which say what people did next.
    """

    past: Log
    live: Log
    later: Sequence[Interaction]


def run_demo(settings: Settings, options: DemoOptions) -> dict[str, Any]:
    """Play the demo on servers of its own, stop them, and return the figures.

    Raises:
        HeadwaterError: something is missing or wrong; what was started is stopped.
    """
    settings = _own_settings(settings)
    if options.learn_every:
        settings = window_settings(settings, options.learn_every)
    seconds: dict[str, float] = {}
    screen = Screen({})
    with screen.stage("data", seconds):
        whole = load_log(options.data)
        for line in whole.describe_rows():
            screen.say(f"  {line}")
        log = _split(whole, options)
        past, live = log.past, log.live
        screen.titles = {item.item_id: item.title for item in past.items}
        screen.say(f"  {len(past.events)} events to learn from, {len(live.events)} to replay")
    with _servers(settings, screen, seconds) as settings:
        with screen.stage("train", seconds):
            _train(settings, past, screen)
        with screen.stage("load", seconds):
            _load(settings, past, screen)
            if options.learn_every:
                screen.say(f"  {write_windows(settings, past)} windows of events")
        with screen.stage("replay", seconds):
            tally, sent, steps = _replay(settings, log, options, screen)
    figures = _figures(tally, sent, seconds)
    if options.learn_every:
        figures["slow_loop"] = slow_loop = summarise_learning(settings, steps, tally.versions)
        screen.say("")
        screen.console.print(versions_table(slow_loop))
    _summarise(screen, figures)
    return figures


def _own_settings(settings: Settings) -> Settings:
    """The settings with a state folder of the demo's own, empty, and no server of anyone else."""
    for name, address in local.addresses(settings).items():
        if address:
            raise SettingsError(
                f"the demo plays on servers of its own, but the settings name {name} at {address}: "
                "unset it for the demo"
            )
    state_dir = settings.local.state_dir / "demo"
    own = settings.local.model_copy(update={"state_dir": state_dir})
    settings = settings.model_copy(
        update={"local": own, "model_repository": state_dir / "model_repo"}
    )
    local.down(settings)
    shutil.rmtree(state_dir, ignore_errors=True)
    return settings


def _split(log: Log, options: DemoOptions) -> DemoLog:
    past, live = log.split(options.train_share)
    if not past.events or not live.events:
        raise DataError(f"the log has {len(log.events)} events: too few for the demo")
    replayed = live.head(options.events) if options.events else live
    return DemoLog(past, replayed, live.events[len(replayed.events) :])


@contextmanager
def _servers(settings: Settings, screen: Screen, seconds: dict[str, float]) -> Iterator[Settings]:
    try:
        with screen.stage("servers", seconds):
            running = local.up(settings, progress=lambda name, text: screen.say(f"  {name} {text}"))
            ensure_topics(running.kafka)
            feature_repo(running)
        yield running
    finally:
        local.down(settings)


def _train(settings: Settings, past: Log, screen: Screen) -> None:
    # torch takes seconds to import: not before it is needed.
    from deploy.jobs.train import train_and_publish  # noqa: PLC0415

    with show_progress(screen.console) as display:
        published = train_and_publish(
            settings, past, lambda at: display.show(str(at), at.done, 1.0, at.seconds_left)
        )
    screen.say(
        f"  version {published.version.number} is live: {published.items} items, "
        f"held-out NDCG@10 {published.held_out:.3f}"
    )


def _load(settings: Settings, past: Log, screen: Screen) -> None:
    """What happened before the replay becomes rows at once, by the stream's own functions."""
    filled = asyncio.run(fill_rows_from_log(settings, past, lambda _done, _total: None))
    screen.say(f"  {filled.events} events in the rows of people and items")


def _replay(
    settings: Settings, log: DemoLog, options: DemoOptions, screen: Screen
) -> tuple[DemoTally, ReplayResult, list[LogLine]]:
    live, schema = log.live, FeatureSchema(settings.features)
    watched, _ = Counter(event.user_id for event in live.events).most_common(1)[0]
    after = find_follow_ups(log.past.events, live.events, log.later, schema)
    tally = DemoTally(follow_ups=after, watched=watched)
    worker_log = settings.local.state_dir / "logs" / "worker.log"
    with (
        RecommendationConsumer(settings.kafka.client_settings) as answers,
        TimedProducer(settings.kafka, tally) as producer,
        supervise("worker", settings, worker_log, screen.say) as check_worker,
        Watch(settings, check_worker) as watch,
        _learning(settings, options, screen) as learning,
    ):
        replay(replace(live, events=(), refused=()), producer)
        watch.wait_for_worker()
        watch.wait()
        if learning:
            learning.wait()
        sender = _Sender(replace(live, items=()), producer, options.rate)
        sender.start()
        try:
            with screen.replaying(tally, len(live.events)) as show:
                while sender.is_alive():
                    _receive(answers, tally)
                    show(sender.sent.events)
                    tally.dead_letters = watch.dead_letters
                    watch.check()
                    _tell(learning, screen)
                watch.wait(lambda: _receive(answers, tally))
        except KeyboardInterrupt:
            screen.say("stopped")
        finally:
            sender.end()
        _receive(answers, tally)
        tally.dead_letters = watch.dead_letters
        _tell(learning, screen)
        return tally, sender.sent, learning.steps if learning else []


def _learning(
    settings: Settings, options: DemoOptions, screen: Screen
) -> AbstractContextManager[DemoTrainer | None]:
    return run_trainer(settings, screen.say) if options.learn_every else nullcontext()


def _tell(learning: DemoTrainer | None, screen: Screen) -> None:
    for step in learning.news() if learning else []:
        screen.say(describe_step(step))


class TimedProducer(EventProducer):
    """A producer that tells the tally when each event left."""

    def __init__(self, settings: BrokerSettings, tally: DemoTally) -> None:
        # Its servers are stopped right after it: librdkafka need not tell.
        super().__init__(settings.client_settings, {"log_level": 0})
        self._tally = tally

    def send(self, event: Interaction | Item) -> None:
        """Send an event."""
        if isinstance(event, Interaction):
            self._tally.note_sent(event)
        super().send(event)


class _Sender(threading.Thread):
    """Replays in a thread of its own, so that its pace does not hang on the screen's."""

    def __init__(self, log: Log, producer: EventProducer, rate: float | None) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._producer = producer
        self._pace = rate_pace(rate) if rate else immediate_pace
        self._stop_early = threading.Event()
        self._failure: Exception | None = None
        self.sent = ReplayResult()

    def run(self) -> None:
        try:
            self.sent = replay(
                self._log, self._producer, self._pace, self._progress, self._stop_early
            )
        except Exception as error:  # noqa: BLE001 (`end` raises it in the main thread)
            self._failure = error

    def _progress(self, sent: ReplayResult) -> None:
        self.sent = sent

    def end(self) -> None:
        """Stop, wait, and raise what went wrong."""
        self._stop_early.set()
        self.join()
        if self._failure is not None:
            raise self._failure


def _receive(answers: RecommendationConsumer, tally: DemoTally) -> None:
    """Read what has arrived; wait a moment where nothing has."""
    until = time.monotonic() + POLL_S
    while time.monotonic() < until and (answer := answers.receive(POLL_S)) is not None:
        tally.note_received(answer)


def _figures(tally: DemoTally, sent: ReplayResult, seconds: dict[str, float]) -> dict[str, Any]:
    elapsed = max(tally.last_answer_s - min(tally.sent_s.values(), default=0.0), 1e-9)
    return {
        "events": sent.events,
        "events_per_second": round(sent.events / elapsed, 1),
        "recommendations": tally.recommendations,
        "latency_ms": {
            "p50": round(tally.latency_ms(50), 1),
            "p99": round(tally.latency_ms(99), 1),
        },
        "hit_rate_at_10": {
            "recommended": round(tally.hit_rate, 4),
            "popularity": round(tally.popular_hit_rate, 4),
            "asked": tally.asked,
        },
        "answered_fraction": round(tally.answered_fraction, 4),
        "next_event": asdict(tally.repeats),
        "dead_letters": tally.dead_letters,
        "fallbacks": tally.fallbacks,
        "seconds": seconds,
    }


def _summarise(screen: Screen, figures: dict[str, Any]) -> None:
    latency, hits = figures["latency_ms"], figures["hit_rate_at_10"]
    screen.say(
        f"\n{figures['events']} events, {figures['recommendations']} recommendations, "
        f"{figures['events_per_second']:,.0f} events/s; event to recommendation: "
        f"p50 {latency['p50']} ms, p99 {latency['p99']} ms\n"
        f"answers with the person's next new item among their ten ({hits['asked']} judged): "
        f"[bold]{hits['recommended']}[/], by decayed popularity {hits['popularity']}\n"
        f"{figures['answered_fraction']:.0%} of the events have an answer of their own: events of "
        "one person that arrive together get one\n"
        f"dead letters {figures['dead_letters']}, fallbacks {figures['fallbacks']}"
    )
    for line in give_advice(figures):
        screen.say(f"\n[yellow]{line}[/]")
    screen.say(
        "\nNext: [bold]uv run headwater demo --data DIR[/] plays it with your own events; "
        "[bold]headwater up[/], [bold]headwater worker[/] and [bold]headwater replay[/] run the "
        "parts one by one."
    )
