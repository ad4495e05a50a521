"""Shows the demo: live tables in a terminal, a line now and then elsewhere.

And watches what the demo started: servers that die, a worker that gives up, events still open.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Reason, Recommendation
from headwater_client.topics import DEAD_LETTERS, ITEMS
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from deploy import local
from deploy.demo.tally import DemoTally
from deploy.settings import Settings
from features.kafka import client_config, group_members
from features.settings import BrokerSettings

_LINE_EVERY_S = 5.0
_SHOWN_ITEMS = 5


class Screen:
    """What the demo says, in a terminal or without one.

    Args:
        titles: title by item_id.
    """

    def __init__(self, titles: Mapping[str, str], console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.titles = titles

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def wait_for_enter(self, text: str) -> None:
        """Wait until somebody who reads this at a terminal presses Enter."""
        if not (self.console.is_terminal and sys.stdin.isatty()):
            return
        self.say(text)
        try:
            sys.stdin.readline()
        except KeyboardInterrupt:
            self.say("stopped")

    @contextmanager
    def stage(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        """Announce a stage, and keep how long it took."""
        started = time.monotonic()
        self.say(f"[bold]{name}[/]")
        yield
        seconds[name] = round(time.monotonic() - started, 2)

    @contextmanager
    def replaying(self, tally: DemoTally, total: int) -> Iterator[Callable[[int], None]]:
        """To be told, often, how many events were sent."""
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4, transient=False) as live:
                yield lambda sent: live.update(self._picture(tally, sent, total))
        else:
            yield self._lines(tally, total)

    def _lines(self, tally: DemoTally, total: int) -> Callable[[int], None]:
        last = [time.monotonic()]

        def show(sent: int) -> None:
            if time.monotonic() - last[0] >= _LINE_EVERY_S:
                last[0] = time.monotonic()
                self.say(
                    f"  {sent}/{total} events, {tally.answers_per_second:.0f} answers/s, "
                    f"p50 {tally.latency_ms(50):.0f} ms, p99 {tally.latency_ms(99):.0f} ms, "
                    f"hit rate {tally.hit_rate:.3f}, by popularity {tally.popular_hit_rate:.3f}"
                )

        return show

    def _picture(self, tally: DemoTally, sent: int, total: int) -> Group:
        bar = Progress(BarColumn(bar_width=40), MofNCompleteColumn(), TextColumn("events sent"))
        bar.add_task("", total=total, completed=sent)
        table = Table.grid(padding=(0, 3))
        table.add_row("answers a second", f"{tally.answers_per_second:,.0f}")
        table.add_row(
            "event → recommendation",
            f"p50 {tally.latency_ms(50):.0f} ms   p99 {tally.latency_ms(99):.0f} ms",
        )
        table.add_row(
            "hit rate at 10",
            f"[bold]{tally.hit_rate:.3f}[/] recommended   "
            f"{tally.popular_hit_rate:.3f} decayed popularity",
        )
        table.add_row("dead letters, fallbacks", f"{tally.dead_letters}, {tally.fallbacks}")
        return Group(bar, table, self._person(tally.latest))

    def _person(self, answer: Recommendation | None) -> Panel:
        if answer is None:
            return Panel("no event yet", title="one person")
        table = Table("score", "recommended", "because of", box=None, header_style="dim")
        for item in answer.items[:_SHOWN_ITEMS]:
            table.add_row(
                f"{item.score:.2f}", self._title(item.item_id), self._describe_reason(item.reason)
            )
        return Panel(table, title=f"person {answer.user_id}, after event {answer.event_id}")

    def _describe_reason(self, reason: Reason) -> str:
        if reason.kind == "history" and reason.item_id:
            return self._title(reason.item_id)
        return {"history": "past events", "trending": "trending", "popular": "popular now"}[
            reason.kind
        ]

    def _title(self, item_id: str) -> str:
        return self.titles.get(item_id) or item_id


def versions_table(slow_loop: Mapping[str, Any]) -> Table:
    """What each version showed, and how soon after its windows closed."""
    table = Table(title="versions", title_justify="left", box=None, header_style="dim")
    for name in ("version", "windows", "events", "judged", "hit rate at 10", "popularity"):
        table.add_column(name, justify="right")
    table.add_column("close to traffic", justify="right")
    for row in slow_loop["versions"]:
        learned = row.get("windows")
        table.add_row(
            str(row["version"]),
            ", ".join(map(str, learned)) if learned else "-",
            str(row.get("events", "-")),
            str(row["asked"]),
            f"{row['hit_rate_at_10']:.3f}",
            f"{row['popularity']:.3f}",
            ", ".join(f"{wait:.1f} s" for wait in row["to_traffic_s"]) if learned else "-",
        )
    return table


_TIMEOUT_S = 10.0


class Lag:
    """What a consumer group has not committed yet of some topics.

    Args:
        partitions: how many each topic has; default: as the settings say.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        group: str,
        topics: Sequence[str],
        partitions: int | None = None,
    ) -> None:
        self._consumer = Consumer({**client_config(settings), "group.id": group, "log_level": "0"})
        self._places = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in range(partitions or settings.partitions)
        ]

    def count_uncommitted(self) -> int | None:
        """Messages that are not committed yet; None while Kafka cannot say."""
        try:
            committed = self._consumer.committed(self._places, timeout=_TIMEOUT_S)
            ends = [
                self._consumer.get_watermark_offsets(p, timeout=_TIMEOUT_S) for p in self._places
            ]
        except KafkaException:
            # A broker's first seconds, or its last: asked again later.
            return None
        return sum(
            end - max(place.offset, start)
            for place, (start, end) in zip(committed, ends, strict=True)
        )

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


_EVERY_S = 0.5


class Watch:
    """Looks every half second, in a thread of its own.

    Args:
        check_worker: raises once the worker is given up.
    """

    def __init__(self, settings: Settings, check_worker: Callable[[], None]) -> None:
        self._settings = settings
        self._check_worker = check_worker
        self._lag = Lag(settings.kafka, settings.worker.group, [*EVENT_TYPES.topics, ITEMS])
        self._letters = Lag(settings.kafka, "headwater-demo", [DEAD_LETTERS], partitions=1)
        self._ending = threading.Event()
        self._behind: int | None = None
        self._looks = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.dead_letters = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._lag.close()
        self._letters.close()

    def check(self) -> None:
        """Raise what was found wrong.

        Raises:
            ServerError: a server died, or the worker was given up.
        """
        if self._failure is not None:
            raise self._failure

    def wait_for_worker(self) -> None:
        """Wait until the worker reads: how long an event waited before says nothing of it.

        Raises:
            ServerError: as `check`.
        """
        while not group_members(self._settings.kafka, self._settings.worker.group):
            time.sleep(_EVERY_S)
            self.check()

    def wait(self, meanwhile: Callable[[], object] = lambda: time.sleep(_EVERY_S)) -> None:
        """Wait until all that was sent before this call is committed.

        Raises:
            ServerError: as `check`.
        """
        looks = self._looks
        # A look that was under way at the call does not count: so two more.
        while self._looks < looks + 2 or self._behind != 0:
            meanwhile()
            self.check()

    def _watch(self) -> None:
        while not self._ending.wait(_EVERY_S):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 (`check` raises it in the main thread)
                self._failure = error
                return

    def _look(self) -> None:
        self._check_worker()
        for server in local.status(self._settings):
            if not server.healthy:
                log = local.log_path(self._settings, server.name)
                raise ServerError(f"{server.name}: {server.detail}: see {log}")
        self._behind = self._lag.count_uncommitted()
        self.dead_letters = self._letters.count_uncommitted() or 0
        self._looks += 1
