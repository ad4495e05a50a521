"""The demo's story: servers, data, a first model, a worker, and the rest of the log replayed.

Meanwhile a second version is tried out (`deploy.demo.canary`). Or a trainer runs beside the worker
(`deploy.demo.learning`): what became of each window is told.
"""

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.errors import DataError, SettingsError
from headwater_client.events import Interaction, Item
from msgspec import structs

from deploy import local
from deploy.demo import canary, learning
from deploy.demo.learning import DemoTrainer, LogLine
from deploy.demo.screen import Screen, Watch, versions_table
from deploy.demo.tally import DemoTally, find_follow_ups, give_advice
from deploy.jobs.backfill import fill_rows_from_log
from deploy.jobs.replay import ReplayResult, immediate_pace, rate_pace, replay
from deploy.local.process import free_port, is_free
from deploy.local.store import feature_repo
from deploy.progress import show_progress
from deploy.services.supervisor import supervise
from deploy.settings import Settings
from features.events import current_ms
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from features.settings import DAY_MS, BrokerSettings
from trainer.datasets import DataSource, Log, load_log

POLL_S = 0.1


@dataclass(frozen=True)
class DemoOptions:
    """What the demo plays.

    Args:
        data: the log.
        events: how many events to replay; default: all that the model has not seen.
        rate: events a second; None: as fast as they go.
        learn_every: events of a window, which becomes a new version for everyone while the log is
            replayed; None: no trainer runs, and one version is tried out as a canary.
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
        known: what the first version learns from.
        past: that, and what a canary learns besides.
        live: what is replayed.
        later: events after those, which say what people did next.
    """

    known: Log
    past: Log
    live: Log
    later: Sequence[Interaction]

    @property
    def has_canary(self) -> bool:
        """Whether something was left for a second version to learn."""
        return len(self.known.events) < len(self.past.events)


def run_demo(settings: Settings, options: DemoOptions) -> dict[str, Any]:
    """Play the demo on servers of its own, stop them, and return the figures.

    Raises:
        HeadwaterError: something is missing or wrong; what was started is stopped.
    """
    settings = _own_settings(settings)
    seconds: dict[str, float] = {}
    screen = Screen({})
    with screen.stage("data", seconds):
        whole = load_log(options.data)
        for line in whole.describe_rows():
            screen.say(f"  {line}")
        log = _split(_move_to_today(whole, screen), options)
        screen.titles = {item.item_id: item.title for item in log.past.items}
        counts = len(log.past.events), len(log.live.events)
        screen.say(f"  {counts[0]} events to learn from, {counts[1]} to replay")
    settings = _window_settings(settings, log, options)
    with ExitStack() as services:
        running = services.enter_context(_servers(settings, screen, seconds))
        page = services.enter_context(_console(settings, screen))
        with screen.stage("train", seconds):
            _train(running, log.known, screen)
        with screen.stage("load", seconds):
            _load(running, log.past, screen)
        if log.has_canary:
            with screen.stage("canary", seconds):
                services.enter_context(canary.try_next_version(running, screen.say))
        with screen.stage("replay", seconds):
            screen.say(
                f"  why, by which version, and whether the next one is better: [bold]{page}[/]"
            )
            worker_log = running.local.state_dir / "logs" / "worker.log"
            check_worker = services.enter_context(
                supervise("worker", running, worker_log, screen.say)
            )
            tally, sent, steps = _replay(running, log, options, screen, check_worker)
        figures = _figures(tally, sent, seconds)
        if options.learn_every:
            figures["slow_loop"] = slow_loop = learning.summarise_learning(
                running, steps, tally.versions
            )
            screen.say("")
            screen.console.print(versions_table(slow_loop))
        elif tried := canary.summarise_canary(running):
            figures["canary"] = tried
        _summarise(screen, figures)
        screen.wait_for_enter(f"\n[bold]{page}[/] goes on until you press Enter.")
    return figures


def _window_settings(settings: Settings, log: DemoLog, options: DemoOptions) -> Settings:
    if options.learn_every:
        return learning.window_settings(settings, options.learn_every)
    if log.has_canary:
        return canary.canary_settings(settings, len(log.past.events) - len(log.known.events))
    return settings


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
    # What the console shows of the worker, the worker tells there.
    port = settings.worker.metrics_port or free_port()
    worker = settings.worker.model_copy(update={"metrics_port": port})
    settings = settings.model_copy(
        update={"local": own, "model_repository": state_dir / "model_repo", "worker": worker}
    )
    local.down(settings)
    shutil.rmtree(state_dir, ignore_errors=True)
    return settings


def _move_to_today(log: Log, screen: Screen) -> Log:
    """The log as if it had gone on until today: counts that decay would all be 0 by now.

    By whole days, so that hours stay what they were.
    """
    newest = max((event.timestamp for event in log.events), default=current_ms())
    moved_ms = max(0, (current_ms() - newest) // DAY_MS) * DAY_MS
    screen.say(f"  times are moved on by {moved_ms // DAY_MS:,} days, to end today")
    return replace(log, events=[_move(event, moved_ms) for event in log.events])


def _move(event: Interaction, moved_ms: int) -> Interaction:
    times = {name: getattr(event, name, None) for name in ("timestamp", "taken_time")}
    return structs.replace(event, **{n: at + moved_ms for n, at in times.items() if at is not None})


def _split(log: Log, options: DemoOptions) -> DemoLog:
    past, live = log.split(options.train_share)
    if not past.events or not live.events:
        raise DataError(f"the log has {len(log.events)} events: too few for the demo")
    replayed = live.head(options.events) if options.events else live
    known = past if options.learn_every else past.split(canary.FIRST_SHARE)[0]
    return DemoLog(known, past, replayed, live.events[len(replayed.events) :])


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


@contextmanager
def _console(settings: Settings, screen: Screen) -> Iterator[str]:
    """The console, as a process of its own; its address.

    It starts while the model trains: it takes nothing from the replay but what it shows.

    Args:
        settings: without the servers' addresses: they are this machine's own, so nobody logs in.
    """
    console = settings.console
    if not is_free(console.port):
        console = console.model_copy(update={"port": free_port()})
    log = settings.local.state_dir / "logs" / "console.log"
    address = f"http://{console.address}:{console.port}"
    shown = settings.model_copy(update={"console": console})
    with supervise("console", shown, log, screen.say):
        screen.say(f"  console {address} (it fills once the replay begins)")
        yield address


def _train(settings: Settings, known: Log, screen: Screen) -> None:
    # torch takes seconds to import: not before it is needed.
    from deploy.jobs.train import train_and_publish  # noqa: PLC0415

    with show_progress(screen.console) as display:
        published = train_and_publish(
            settings, known, lambda at: display.show(str(at), at.done, 1.0, at.seconds_left)
        )
    screen.say(
        f"  version {published.version.number} is live: {published.items} items, "
        f"held-out NDCG@10 {published.held_out:.3f}"
    )


def _load(settings: Settings, past: Log, screen: Screen) -> None:
    """What happened before the replay becomes rows at once, by the stream's own functions.

    And windows, which versions learn from. The catalogue is sent.
    """
    filled = asyncio.run(fill_rows_from_log(settings, past, lambda _done, _total: None))
    screen.say(f"  {filled.events} events in the rows of people and items")
    with EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer:
        replay(replace(past, events=(), refused=()), producer)
    screen.say(f"  {learning.write_windows(settings, past)} windows of events")


def _replay(
    settings: Settings,
    log: DemoLog,
    options: DemoOptions,
    screen: Screen,
    check_worker: Callable[[], None],
) -> tuple[DemoTally, ReplayResult, list[LogLine]]:
    live, schema = log.live, FeatureSchema(settings.features)
    watched, _ = Counter(event.user_id for event in live.events).most_common(1)[0]
    after = find_follow_ups(log.past.events, live.events, log.later, schema)
    tally = DemoTally(follow_ups=after, watched=watched)
    with (
        RecommendationConsumer(settings.kafka.client_settings) as answers,
        TimedProducer(settings.kafka, tally) as producer,
        Watch(settings, check_worker) as watch,
        _run_trainer(settings, options, screen) as trainer,
    ):
        watch.wait_for_worker()
        watch.wait()
        if trainer:
            trainer.wait()
        sender = _Sender(replace(live, items=()), producer, options.rate)
        sender.start()
        try:
            with screen.replaying(tally, len(live.events)) as show:
                while sender.is_alive():
                    _receive(answers, tally)
                    show(sender.sent.events)
                    tally.dead_letters = watch.dead_letters
                    watch.check()
                    _report_news(trainer, screen)
                watch.wait(lambda: _receive(answers, tally))
        except KeyboardInterrupt:
            screen.say("stopped")
        finally:
            sender.end()
        _receive(answers, tally)
        tally.dead_letters = watch.dead_letters
        _report_news(trainer, screen)
        return tally, sender.sent, trainer.steps if trainer else []


def _run_trainer(
    settings: Settings, options: DemoOptions, screen: Screen
) -> AbstractContextManager[DemoTrainer | None]:
    return learning.run_trainer(settings, screen.say) if options.learn_every else nullcontext()


def _report_news(trainer: DemoTrainer | None, screen: Screen) -> None:
    for step in trainer.news() if trainer else []:
        screen.say(learning.describe_step(step))


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
    if "canary" in figures:
        screen.say(canary.describe_canary(figures["canary"]))
    for line in give_advice(figures):
        screen.say(f"\n[yellow]{line}[/]")
    screen.say(
        "\nNext: [bold]headwater demo --data FILE[/], or [bold]./hw demo --data FILE[/] in a "
        "checkout, plays it with your own events; docs/tutorial.md runs the parts one by one."
    )
