"""How soon planted anomalies are found in a replay of a log, and how often an alarm is false.

uv run python -m bench.quality.anomalies --data DIR

A log is played so many times as fast as it happened that `--rate` events a second arrive in the
mean, and is watched as the console watches what arrives: by `deploy.console.rates`, in ticks of
10 s, with the default settings. Its last `--hours` are played three times:

- *as it was*: what is raised is not all false, for a log has surges of its own;
- *histories moved*: each person's events by so many whole days, round the log's end. Sessions,
  baskets and hours stay, and what many did at the same time is gone: an alarm is false;
- *planted*: every two hours eight series are changed for an hour (`PlantedChange`), each in a
  replay of its own that goes on from there: chosen by their events of the last hour and taken by
  so many times as many people as in it, who come for it alone, or gone; the busiest item gone; an
  item, any, for which as many come as one of fifty events.

Beside the delay stands the least that any detector could have that raises false alarms as rarely:
log(1 / their rate) over the information of a tick (G. Lorden, "Procedures for reacting to a change
in distribution", 1971), by a rate that is tolerated and counts that scatter as Poisson's do.

Where a log tells days only, each person's events of a day arrive at one random time of it.

N events, T ticks.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

import numpy as np
import typer
from headwater_client.admin.forecast import SeriesKind
from rich.console import Console
from rich.table import Table

from bench.harness import runner
from deploy.console.rates import RateSignals
from deploy.monitoring.anomalies import TOLERATED, WEEK_S, AlarmDirection
from deploy.monitoring.settings import MonitoringSettings
from features.schema import Int64Array
from features.settings import DAY_MS, HOUR_MS
from trainer.datasets import Log

STATED = (1.0, 100.0)
"""False alarms a week, at most: the default, and one that a replay of a day can contradict."""

WITHIN_MIN = (1, 5, 15, 60)
CROWD = 0.02
"""The part of all events that come for one item, where a crowd does."""

_RATES = (0.0, 10.0, 100.0, 1000.0)
_FIRST_H, _EVERY_H = 3, 2


@dataclass(frozen=True)
class ReplayEvents:
    """Events in the order of time: people, items and times in ms, int64[N] each."""

    people: Int64Array
    items: Int64Array
    times: Int64Array

    @property
    def days(self) -> int:
        """From the first to the last, both counted."""
        return int((self.times[-1] - self.times[0]) // DAY_MS) + 1

    def sort(self, times: Int64Array) -> "ReplayEvents":
        """The same events at other times."""
        order = np.argsort(times, kind="stable")
        return ReplayEvents(self.people[order], self.items[order], times[order])

    def spread_days(self, rng: np.random.Generator) -> "ReplayEvents":
        """Where only days are known: a person's events of a day at one random time of it."""
        if (self.times % DAY_MS != self.times[0] % DAY_MS).any():
            return self
        keys = (self.times // DAY_MS) * (self.people.max() + 1) + self.people
        _, basket = np.unique(keys, return_inverse=True)
        return self.sort(self.times + rng.integers(0, DAY_MS, basket.max() + 1)[basket])

    def move_histories(self, rng: np.random.Generator) -> "ReplayEvents":
        """Each person's events so many whole days later, round the log's end."""
        days, first = self.days, self.times[0]
        moved = rng.integers(0, days, self.people.max() + 1)[self.people] * DAY_MS
        return self.sort(first + (self.times - first + moved) % (days * DAY_MS))


@dataclass(frozen=True)
class Replay:
    """What arrives in each tick.

    Attributes:
        names: of the items, by code.
        categories: of each item.
        arrived: the people and items of each tick, int64[events of the tick, 2].
        speed: how many times as fast as it happened.
    """

    names: Sequence[str]
    categories: Mapping[str, Sequence[str]]
    arrived: Sequence[Int64Array]
    speed: float

    def list_series(self, items: Int64Array, kind: SeriesKind) -> list[str]:
        """The series of a kind that events count in, each as often as it has events."""
        names = [self.names[item] for item in items[:, 1].tolist()]
        if kind is SeriesKind.ITEM:
            return names
        return [category for name in names for category in self.categories.get(name, ())]


class PlantedChange(StrEnum):
    """What is planted."""

    FOUR_TIMES = "4 times"
    TWENTY_TIMES = "20 times"
    GONE = "gone"
    BUSIEST_GONE = "the busiest gone"
    CROWD = "2 % of all come"

    @property
    def is_surge(self) -> bool:
        """Whether more come."""
        return self not in {PlantedChange.GONE, PlantedChange.BUSIEST_GONE}


_KIND_CHANGES = {
    SeriesKind.ITEM: tuple(PlantedChange),
    SeriesKind.CATEGORY: (PlantedChange.FOUR_TIMES, PlantedChange.TWENTY_TIMES, PlantedChange.GONE),
}


@dataclass(frozen=True)
class Plant:
    """A series whose rate is changed for an hour.

    Attributes:
        start: the first tick of it.
        events: that it had in the hour before: people and items, int64[events, 2].
        people: who took it in the hour before.
        ticks: of an hour.
        added: people a tick who come besides.
        bound_min: before which no detector can raise it in the mean.
        delay_min: until it was raised; None where it was not within its hour.
    """

    kind: SeriesKind
    name: str
    change: PlantedChange
    start: int
    events: Int64Array
    people: int
    ticks: int
    added: float
    bound_min: float
    delay_min: float | None = None

    @property
    def direction(self) -> AlarmDirection:
        """Where its rate goes."""
        return AlarmDirection.SURGE if self.change.is_surge else AlarmDirection.DROP


def find_bound(usual: float, rate: float, threshold: float) -> float:
    """The least mean delay of a detector, in ticks, at least one; infinite for what is tolerated.

    Args:
        usual, rate: people a tick, before and now.
        threshold: the logarithm of how many ticks of a series may pass for a false alarm.
    """
    if usual / TOLERATED <= rate <= usual * TOLERATED:
        return math.inf
    tolerated = usual * (TOLERATED if rate > usual else 1 / TOLERATED)
    if not rate:
        return max(1.0, threshold / tolerated)
    return max(1.0, threshold / (rate * math.log(rate / tolerated) - rate + tolerated))


@dataclass
class Watched:
    """What the console's watches say of ticks.

    Attributes:
        raised: by kind, name and direction: the ends of ticks that began an anomaly.
    """

    signals: RateSignals
    raised: defaultdict[tuple[SeriesKind, str, AlarmDirection], set[int]] = field(
        default_factory=lambda: defaultdict(set)
    )

    def add(self, takes: set[tuple[str, str]], at_ms: int) -> None:
        """Add a tick."""
        self.signals.add(takes, at_ms)
        for seen, _ in self.signals.list_anomalies():
            alarm = seen.alarm
            self.raised[seen.kind, alarm.name, alarm.direction].add(alarm.at_ms)

    def list_open(self) -> set[str]:
        """The series of which an anomaly goes on."""
        return {seen.alarm.name for seen, is_open in self.signals.list_anomalies() if is_open}

    def count(self, kind: SeriesKind) -> int:
        """How many anomalies there were."""
        return sum(len(times) for key, times in self.raised.items() if key[0] is kind)


@dataclass(frozen=True, kw_only=True)
class AnomalyOptions(runner.MappedDataOptions):
    """Options of `bench.quality.anomalies`."""

    rate: Annotated[float, typer.Option(help="events a second, in the mean", min=0.01)] = 1.0
    hours: Annotated[float, typer.Option(help="of the replay, its last", min=6)] = 36.0
    seed: Annotated[int, typer.Option(help="of what is planted, and of times of day")] = 1


def read_events(log: Log) -> tuple[ReplayEvents, list[str]]:
    """The events of a log, and the names of its items."""
    people: dict[str, int] = {}
    items: dict[str, int] = {}
    rows = [
        (
            people.setdefault(event.user_id, len(people)),
            items.setdefault(event.item_id, len(items)),
            event.timestamp,
        )
        for event in log.events
    ]
    return ReplayEvents(*np.array(rows, np.int64).T), list(items)


class AnomalyTrial:
    """Replays of one log.

    Args:
        settings: of the watches; of `STATED`, each has its own.
    """

    def __init__(self, log: Log, options: AnomalyOptions, settings: MonitoringSettings) -> None:
        self._rng = np.random.default_rng(options.seed)
        events, self._names = read_events(log)
        self.events = events.spread_days(self._rng)
        self._categories = {item.item_id: item.category for item in log.items}
        self._options, self._settings = options, settings
        self._tick_ms = int(settings.tick_s * 1000)

    def play(self, events: ReplayEvents) -> Replay:
        """The last hours of a replay at the options' rate."""
        span_s = max(1.0, float(events.times[-1] - events.times[0]) / 1000)
        speed = span_s * self._options.rate / len(events.times)
        since_s = (events.times - events.times[0]) / 1000 / speed
        ticks = (since_s // self._settings.tick_s).astype(np.int64)
        count = int(ticks[-1]) + 1
        first = max(0, count - int(self._options.hours * 3600 / self._settings.tick_s))
        bounds = np.searchsorted(ticks, np.arange(first, count + 1))
        both = np.stack([events.people, events.items], 1)
        arrived = [both[start:end] for start, end in itertools.pairwise(bounds.tolist())]
        return Replay(self._names, self._categories, arrived, speed)

    def _watch(self, stated: float) -> Watched:
        settings = self._settings.model_copy(update={"false_alarms_per_week": stated})
        return Watched(RateSignals(settings, lambda item: self._categories.get(item, ())))

    def watch_for_nothing(self, replay: Replay) -> dict[float, Watched]:
        """What is raised in a replay without anything planted, by the stated rate."""
        watched = {stated: self._watch(stated) for stated in STATED}
        for tick, items in enumerate(replay.arrived, 1):
            takes = _name_takes(replay, items)
            for each in watched.values():
                each.add(takes, tick * self._tick_ms)
        return watched

    def watch_for_plants(self, replay: Replay) -> list[Plant]:
        """Plant, and see when each was raised."""
        watched, planted = self._watch(STATED[0]), list[Plant]()
        an_hour = HOUR_MS // self._tick_ms
        for tick, items in enumerate(replay.arrived):
            since = tick - _FIRST_H * an_hour
            if since >= 0 and since % (_EVERY_H * an_hour) == 0:
                chosen = self._choose(replay, tick, an_hour, watched)
                planted += [self._play_alone(replay, plant, watched) for plant in chosen]
            watched.add(_name_takes(replay, items), (tick + 1) * self._tick_ms)
        return planted

    def _play_alone(self, replay: Replay, plant: Plant, before: Watched) -> Plant:
        """The hour of a plant, by watches that go on from there, until it is raised."""
        watched, start_ms = deepcopy(before), plant.start * self._tick_ms
        raised = watched.raised[plant.kind, plant.name, plant.direction]
        hour = replay.arrived[plant.start : plant.start + plant.ticks]
        for tick, items in enumerate(hour, plant.start + 1):
            at_ms = tick * self._tick_ms
            watched.add(_name_takes(replay, self._change(replay, items, plant)), at_ms)
            if at_ms in raised:
                return replace(plant, delay_min=(at_ms - start_ms) / 60_000)
        return plant

    def _choose(self, replay: Replay, tick: int, ticks: int, watched: Watched) -> list[Plant]:
        """A series without an anomaly for each change of each kind."""
        past, taken = np.concatenate(replay.arrived[tick - ticks : tick]), watched.list_open()
        chosen: list[Plant] = []
        for kind, changes in _KIND_CHANGES.items():
            threshold = watched.signals.thresholds[kind]
            for change in changes:
                free = [name for name in replay.list_series(past, kind) if name not in taken]
                if not free:
                    continue
                name = self._pick(free, change)
                taken = taken | {name}
                is_its = [
                    name in replay.list_series(past[at : at + 1], kind) for at in range(len(past))
                ]
                its = past[is_its]
                people = len(np.unique(its[:, 0]))
                usual = people / ticks
                added = {
                    PlantedChange.FOUR_TIMES: 3 * usual,
                    PlantedChange.TWENTY_TIMES: 19 * usual,
                    PlantedChange.CROWD: CROWD * len(past) / ticks,
                }.get(change, 0.0)
                rate = usual + added if change.is_surge else 0.0
                bound = find_bound(usual, rate, threshold) * self._tick_ms / 60_000
                chosen.append(Plant(kind, name, change, tick, its, people, ticks, added, bound))
        return chosen

    def _pick(self, names: Sequence[str], change: PlantedChange) -> str:
        """One of names, which stand there as often as they have events."""
        if change is PlantedChange.BUSIEST_GONE:
            return Counter(names).most_common(1)[0][0]
        if change is PlantedChange.CROWD:
            names = sorted(set(names))
        return names[int(self._rng.integers(len(names)))]

    def _change(self, replay: Replay, items: Int64Array, plant: Plant) -> Int64Array:
        """The items of a tick with what is planted, or without what is gone."""
        if plant.change.is_surge:
            more = self._rng.poisson(plant.added)
            takes = self._rng.choice(plant.events, more)
            # Codes that nobody has: each is somebody else.
            takes[:, 0] = -self._rng.integers(1, 2**40, more)
            return np.concatenate([items, takes])
        stays = [
            plant.name not in replay.list_series(items[at : at + 1], plant.kind)
            for at in range(len(items))
        ]
        return items[np.array(stays, np.bool_)]


def _name_takes(replay: Replay, arrived: Int64Array) -> set[tuple[str, str]]:
    return {(str(person), replay.names[item]) for person, item in arrived.tolist()}


def make_quiet_table(
    title: str, watched: Mapping[str, Mapping[float, Watched]], hours: float
) -> Table:
    """A row for a replay and a stated rate."""
    kinds = (SeriesKind.ITEM, SeriesKind.CATEGORY, SeriesKind.ALL)
    table = runner.make_table(title, "", ("stated a week", "at most", *kinds, "a week"))
    for name, by_rate in watched.items():
        for stated, each in by_rate.items():
            counts = [each.count(kind) for kind in kinds]
            part = hours * 3600 / WEEK_S
            table.add_row(
                name,
                f"{stated:g}",
                f"{stated * part:.1f}",
                *map(str, counts),
                f"{sum(counts) / part:.1f}",
            )
    return table


def _iterate_groups(plants: Sequence[Plant]) -> Iterator[tuple[str, list[Plant]]]:
    """What was planted by kind, change and people an hour."""
    for kind, changes in _KIND_CHANGES.items():
        for change, (low, high) in itertools.product(
            changes, itertools.pairwise((*_RATES, np.inf))
        ):
            found = [
                plant
                for plant in plants
                if (plant.kind, plant.change) == (kind, change) and low <= plant.people < high
            ]
            if found:
                bounds = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
                yield f"{kind.value}, {change}, {bounds} an hour", found


def judge_plants(plants: Sequence[Plant]) -> dict[str, dict[str, float]]:
    """By kind, change and people an hour: how many were found within so many minutes."""
    figures: dict[str, dict[str, float]] = {}
    for name, group in _iterate_groups(plants):
        delays = [np.inf if each.delay_min is None else each.delay_min for each in group]
        figures[name] = {
            "planted": len(group),
            **{f"within_{most}_min": int(np.sum(np.array(delays) <= most)) for most in WITHIN_MIN},
            "median_min": float(np.median(delays)),
            "bound_min": float(np.median([each.bound_min for each in group])),
        }
    return figures


def make_plant_table(title: str, figures: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for a kind, a change and a rate."""
    within = [f"within_{most}_min" for most in WITHIN_MIN]
    table = runner.make_table(
        title, "", ("planted", *(f"≤ {most} min" for most in WITHIN_MIN), "median, min", "at least")
    )
    for name, row in figures.items():
        median = row["median_min"]
        table.add_row(
            name,
            f"{row['planted']:g}",
            *(f"{row[key]:g}" for key in within),
            f"{median:.1f}" if np.isfinite(median) else "-",
            f"{row['bound_min']:.1f}" if np.isfinite(row["bound_min"]) else "-",
        )
    return table


def measure(options: AnomalyOptions, console: Console) -> runner.Results:
    """Watch a log's replay: as it was, with histories moved, and with anomalies planted."""
    trial = AnomalyTrial(options.load_log(), options, MonitoringSettings())
    rng = np.random.default_rng(options.seed)
    replays = {
        "as it was": trial.play(trial.events),
        "histories moved": trial.play(trial.events.move_histories(rng)),
    }
    original = replays["as it was"]
    hours = len(original.arrived) * MonitoringSettings().tick_s / 3600
    said = f"{hours:.1f} hours, {options.rate:g} events/s, {original.speed:,.0f} times as fast"
    console.print(said, highlight=False)
    quiet = {name: trial.watch_for_nothing(replay) for name, replay in replays.items()}
    plants = judge_plants(trial.watch_for_plants(original))
    alarms = {
        name: {
            f"{stated:g}": {kind.value: each.count(kind) for kind in SeriesKind}
            for stated, each in by_rate.items()
        }
        for name, by_rate in quiet.items()
    }
    return runner.Results(
        {"hours": hours, "speed": original.speed, "alarms": alarms, "plants": plants},
        [
            make_quiet_table(f"{said}: alarms where nothing is planted", quiet, hours),
            make_plant_table("What was planted, at 1 false alarm a week", plants),
        ],
    )


BENCHMARK = runner.Benchmark("quality.anomalies", AnomalyOptions, measure, width=130)

if __name__ == "__main__":
    BENCHMARK.main()
