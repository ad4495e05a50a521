"""Made-up gains of two versions on the same events: for how often a rule on them is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from features.schema import Float64Array, Int64Array


@dataclass(frozen=True)
class World:
    """What held-out events are like.

    Attributes:
        hit_rate: of the live version, at 10: .2 with places alike gives an NDCG@10 of .09.
        alike: of the events, both versions give the right item the same place.
        people: on average; they differ in how much they do and in how easy they are.
    """

    events: int = 150
    people: int = 40
    hit_rate: float = 0.2
    alike: float = 0.7


def slices(
    world: World, worth: float, count: int, seed: int
) -> Iterator[tuple[Float64Array, Float64Array, Int64Array]]:
    """Gains of a candidate and of the live version, float64[M] each, and whose each event is.

    Args:
        worth: the candidate's true NDCG@10 as a share of the live version's.
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        busy = random.pareto(1.5, world.people) + 0.2
        whose = random.choice(world.people, world.events, p=busy / busy.sum())
        easy = random.gamma(2.0, 0.5, world.people)[whose]
        live, other = (_gains(easy * world.hit_rate, random) for _ in range(2))
        mine = np.where(random.random(world.events) < world.alike, live, other)
        yield mine * _draw_kept(worth, world.events, random), live, whose


def _gains(hit_rates: Float64Array, random: np.random.Generator) -> Float64Array:
    """Of events with these chances of a hit, each place of the ten being as likely."""
    hits = random.random(len(hit_rates)) < hit_rates
    return hits * random.choice(1 / np.log2(np.arange(10) + 2), len(hit_rates))


def _draw_kept(worth: float, events: int, random: np.random.Generator) -> Float64Array:
    """A worse candidate misses what it would have hit; a better one gains more by each."""
    return (random.random(events) < worth).astype(np.float64) * max(1.0, worth)
