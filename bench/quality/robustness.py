"""How NDCG@10 falls as histories get worse: events lost, swapped, doubled, unknown, badly timed.

uv run python -m bench.quality.robustness

The model is trained as `bench.quality` does under global-time, on an undamaged log. Then only the
histories of the test's questions are damaged, in the order in which their events arrived, and pass
through the stream's own rows: sorted by their clocks, cut to the newest, with the decayed features
of what arrived. Questions, targets, item trends and what counts as taken stay as they were.

E events of a history, Q questions, M targets, N items of the log.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.harness.runner import Benchmark, DataOptions, Quick, Results, Threads, make_table
from bench.quality.ours import Ours, score_people, train_ours
from bench.quality.questions import (
    TEST,
    Bools,
    Floats,
    Ints,
    Protocol,
    Questions,
    questions,
    ranks_by_score,
    takes_of,
)
from deploy.settings import default_cache_dir
from features import inputs, rows
from features.rows import Observation, UserRow
from features.schema import FeatureSchema
from features.settings import DAY_MS, HOUR_MS, FeatureSettings
from features.topics import Hash
from trainer.datasets import Log
from trainer.examples import observe_log
from trainer.examples.requests import Requests
from trainer.metrics import bootstrap_interval, ndcg
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
# An item of no catalogue: no version has it in its vocabulary.
NOBODYS_ITEM = Hash(-1)
_CHUNK = 256
_QUICK_EVENTS = 6000


@dataclass(frozen=True)
class ArrivedHistory:
    """What arrived of one person's events, in order of arrival.

    Attributes:
        events: int64[E], which of the person's events each is.
        times_ms: int64[E], when it happened, by its own clock.
        known: bool[E], whether its item is what it was; else one that nobody knows.
    """

    events: Ints
    times_ms: Ints
    known: Bools

    @staticmethod
    def from_times(times_ms: Sequence[int]) -> ArrivedHistory:
        """What happened at these times, undamaged."""
        return ArrivedHistory(
            np.arange(len(times_ms)),
            np.asarray(times_ms, np.int64),
            np.ones(len(times_ms), np.bool_),
        )

    def __len__(self) -> int:
        return len(self.events)

    def take(self, places: Ints) -> ArrivedHistory:
        """The events at these places of the order of arrival."""
        return ArrivedHistory(self.events[places], self.times_ms[places], self.known[places])


Damage = Callable[[ArrivedHistory, float, np.random.Generator], ArrivedHistory]


def drop_events(
    history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of the events never arrives."""
    return history.take(np.flatnonzero(random.random(len(history)) >= rate))


def swap_neighbours(
    history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of pairs of neighbours change places: each has the other's time.

    An event is in one pair at most, with the event before it or the one after it.
    """
    first = np.arange(random.integers(2), len(history) - 1, 2)
    first = first[random.random(len(first)) < rate]
    events, known = history.events.copy(), history.known.copy()
    for column in (events, known):
        column[first], column[first + 1] = column[first + 1], column[first]
    return replace(history, events=events, known=known)


def double_events(
    history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of the events arrives twice under different ids, so that both count."""
    times = 1 + (random.random(len(history)) < rate)
    return history.take(np.repeat(np.arange(len(history)), times))


def forget_items(
    history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of the events is about items that nobody knows."""
    return replace(history, known=history.known & (random.random(len(history)) >= rate))


def jitter_clocks(
    spread_ms: int, history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """The clocks of a share of the events are wrong, by up to `spread_ms` either way."""
    wrong = random.random(len(history)) < rate
    shift_ms = random.integers(-spread_ms, spread_ms, len(history), endpoint=True)
    return replace(history, times_ms=history.times_ms + wrong * shift_ms)


def shift_clocks(
    offset_ms: int, history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of the people has a clock that is wrong by `offset_ms`, always."""
    wrong = random.random() < rate
    return replace(history, times_ms=history.times_ms + wrong * offset_ms)


def reverse_clocks(
    history: ArrivedHistory, rate: float, random: np.random.Generator
) -> ArrivedHistory:
    """A share of the people has a clock that runs backwards, from their newest event's time."""
    if random.random() >= rate or not len(history):
        return history
    times_ms = history.times_ms
    return replace(history, times_ms=times_ms.max() + times_ms.min() - times_ms)


DAMAGES: Mapping[str, Damage] = {
    "events lost": drop_events,
    "neighbours swapped": swap_neighbours,
    "events doubled": double_events,
    "items unknown": forget_items,
    "clocks +-10 s": partial(jitter_clocks, 10_000),
    "clocks +-10 min": partial(jitter_clocks, 600_000),
    "clocks +-6 h": partial(jitter_clocks, 6 * HOUR_MS),
    "clocks +-3 d": partial(jitter_clocks, 3 * DAY_MS),
    "people a day ahead": partial(shift_clocks, DAY_MS),
    "people 30 d behind": partial(shift_clocks, -30 * DAY_MS),
    "people backwards": reverse_clocks,
}


@dataclass(frozen=True)
class AskedHistories:
    """Questions, and what had happened strictly before each.

    Attributes:
        pasts: a question each, the person's events in order of arrival.
        times_ms: a question each, when it is asked.
    """

    questions: Questions
    pasts: list[list[Observation]]
    times_ms: list[int]

    @property
    def people(self) -> Ints:
        """Whose each target is, int64[M]."""
        return self.questions.takes.users[self.questions.targets()[1]]

    def take(self, chosen: Ints) -> AskedHistories:
        """Some of the questions."""
        mine = self.questions
        columns = {name: getattr(mine, name)[chosen] for name in ("starts", "firsts", "ends")}
        return AskedHistories(
            replace(mine, **columns),
            [self.pasts[question] for question in chosen],
            [self.times_ms[question] for question in chosen],
        )

    def sample(self, count: int, seed: int) -> AskedHistories:
        """At most so many of the questions, at random."""
        order = np.random.default_rng(seed).permutation(len(self.pasts))
        return self.take(np.sort(order[:count]))


def asked_of(log: Log, wanted: Questions) -> AskedHistories:
    """What is known when each question is asked."""
    mine: dict[str, list[Observation]] = {}
    for event in observe_log(log.events, log.items):
        mine.setdefault(event.user_id, []).append(event)
    for events in mine.values():
        events.sort(key=attrgetter("time_ms"))
    pasts, times_ms = [], []
    for row in wanted.firsts:
        events = mine[wanted.takes.user_ids[wanted.takes.users[row]]]
        since_ms = 1000 * int(wanted.takes.times_s[row])
        first = bisect_left(events, since_ms, key=attrgetter("time_ms"))
        pasts.append(events[:first])
        times_ms.append(events[first].time_ms)
    return AskedHistories(wanted, pasts, times_ms)


def row_of(past: Sequence[Observation], history: ArrivedHistory, schema: FeatureSchema) -> UserRow:
    """The row of a person of whom this has arrived."""
    row = rows.empty_user(schema)
    columns = (history.events, history.times_ms, history.known)
    arrived = zip(*(column.tolist() for column in columns), strict=True)
    for place, (event, time_ms, known) in enumerate(arrived):
        # Each is an event of its own, whatever it is a copy of.
        one = past[event]._replace(time_ms=time_ms, event=Hash(place), offset=place)
        if not known:
            one = one._replace(item=NOBODYS_ITEM, categories=())
        rows.apply_event(row, one, schema)
    return row


def rows_of(
    asked: AskedHistories,
    schema: FeatureSchema,
    damage: Damage = drop_events,
    rate: float = 0.0,
    seed: int = 0,
) -> list[UserRow]:
    """The row of each question's person, damaged at a rate.

    A question draws the same numbers at every rate: points of a curve differ by the rate alone.
    """
    found = []
    for number, past in enumerate(asked.pasts):
        history = ArrivedHistory.from_times([event.time_ms for event in past])
        random = np.random.default_rng((seed, number))
        found.append(row_of(past, damage(history, rate, random), schema))
    return found


def requests_of(ours: Ours, people: Sequence[UserRow], times_ms: Sequence[int]) -> Requests:
    """Requests of these rows as a worker would make them."""
    vocabulary, schema = ours.trained.vocabulary, ours.schema
    found = inputs.model_tensors(people, times_ms, vocabulary, schema)
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    items = tensors["item_indices"]
    return Requests(
        items,
        tensors["event_types"],
        tensors["event_times_ms"],
        torch.full((len(items), 1), items.shape[1] - 1),
        tensors["request_time_ms"],
        tensors["user_features"][:, None],
    )


def gains_of(ours: Ours, asked: AskedHistories, people: Sequence[UserRow]) -> Floats:
    """NDCG@10 of each target, with these histories, float[M]."""
    found = []
    for at in range(0, len(people), _CHUNK):
        part = slice(at, at + _CHUNK)
        requests = requests_of(ours, people[part], asked.times_ms[part])
        scores = score_people(ours, requests)
        found.append(ranks_by_score(asked.questions, at, scores))
    return ndcg(np.concatenate(found))


Gains = dict[str, dict[float, Floats]]


def curves(
    ours: Ours,
    asked: AskedHistories,
    rates: Sequence[float],
    seed: int,
    damages: Mapping[str, Damage],
) -> tuple[Floats, Gains]:
    """NDCG@10 of each target, float[M]: undamaged, and by damage and rate."""
    clean = gains_of(ours, asked, rows_of(asked, ours.schema))
    found = {
        name: {
            rate: gains_of(ours, asked, rows_of(asked, ours.schema, damage, rate, seed))
            for rate in rates
        }
        for name, damage in damages.items()
    }
    return clean, found


def summary(clean: Floats, found: Gains, people: Ints) -> dict[str, Any]:
    """NDCG@10, its share of the undamaged one, and what was lost with its interval (95 %)."""
    return {
        "undamaged": {
            "ndcg_at_10": float(clean.mean()),
            "interval": bootstrap_interval(clean, people),
        },
        "damaged": {
            name: [
                {
                    "rate": rate,
                    "ndcg_at_10": float(damaged.mean()),
                    "share": float(damaged.mean() / max(clean.mean(), 1e-12)),
                    "change_interval": bootstrap_interval(damaged - clean, people),
                }
                for rate, damaged in by_rate.items()
            ]
            for name, by_rate in found.items()
        },
    }


def make_damages_table(figures: Mapping[str, Any], rates: Sequence[float]) -> Table:
    """The curves, a damage a row."""
    clean = figures["undamaged"]["ndcg_at_10"]
    title = f"NDCG@10, undamaged {clean:.4f}; by rate"
    drawn = make_table(title, "damage", (f"{rate:g}" for rate in rates))
    for name, points in figures["damaged"].items():
        drawn.add_row(name, *(f"{one['ndcg_at_10']:.4f} {one['share']:4.0%}" for one in points))
    return drawn


def mean_gains(runs: Sequence[tuple[Floats, Gains]]) -> tuple[Floats, Gains]:
    """The mean of the gains of several seeds."""
    clean = np.mean([run[0] for run in runs], axis=0)
    by_name = {
        name: {rate: np.mean([run[1][name][rate] for run in runs], axis=0) for rate in by_rate}
        for name, by_rate in runs[0][1].items()
    }
    return clean, by_name


def train_on(log: Log, asked: Questions, settings: TrainerSettings) -> Ours:
    """The default model, trained on what lies before the test."""
    text_encoder = load_text_encoder(settings.language_model, default_cache_dir())
    schema = FeatureSchema(FeatureSettings())
    return train_ours(log, asked.takes, schema, settings, text_encoder)


def last_tenth(log: Log) -> Questions:
    """The seconds of the last tenth of the log."""
    return questions(takes_of(log, Protocol.GLOBAL_TIME), TEST)


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(DataOptions):
    """Options of a benchmark that changes the histories of the test's questions."""

    threads: Threads = TrainerSettings().threads
    quick: Quick = False

    def log_and_settings(self) -> tuple[Log, TrainerSettings]:
        """A small part of the log and little training where that is wanted."""
        log, settings = self.load_log(), TrainerSettings(threads=self.threads)
        if not self.quick:
            return log, settings
        return log.head(_QUICK_EVENTS), settings.model_copy(update={"epochs": 1})


@dataclass(frozen=True, kw_only=True)
class RobustnessOptions(HistoryOptions):
    """Options of `bench.quality.robustness`."""

    sample: Annotated[int, typer.Option(help="so many questions of the test", min=1)] = 1000
    rate: Annotated[list[float] | None, typer.Option(help="of damage, 0 to 1; may be repeated")] = (
        None
    )
    seeds: Annotated[int, typer.Option(help="models trained; figures are means", min=1)] = 1


def measure(options: RobustnessOptions, _: Console) -> Results:
    """NDCG@10 by kind and rate of damage to the histories."""
    log, settings = options.log_and_settings()
    wanted, rates = last_tenth(log), options.rate or RATES
    asked = asked_of(log, wanted).sample(options.sample, 0)
    runs = []
    for seed in range(options.seeds):
        mine = settings.model_copy(update={"seed": settings.seed + seed})
        runs.append(curves(train_on(log, wanted, mine), asked, rates, seed, DAMAGES))
    found = summary(*mean_gains(runs), asked.people)
    counts = {
        "questions": len(asked.pasts),
        "targets": len(asked.people),
        "seeds": options.seeds,
    }
    return Results(counts | found, [make_damages_table(found, rates)])


BENCHMARK = Benchmark("quality.robustness", RobustnessOptions, measure, width=120)

if __name__ == "__main__":
    BENCHMARK.main()
