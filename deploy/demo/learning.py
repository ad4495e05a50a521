"""The demo's trainer: a window is so many events, and what became of each one is told."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from headwater_client.documents import read_json
from headwater_client.errors import ServerError

from deploy.demo.tally import VersionHits
from deploy.services.supervisor import Warn, supervise
from deploy.settings import Settings
from trainer.datasets import Log
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
