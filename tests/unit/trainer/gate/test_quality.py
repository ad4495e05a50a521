"""How often the rule on quality is wrong, on made-up slices."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness.gains import World, slices
from trainer.gate.checks import probability_worse
from trainer.settings import GateSettings

SETTINGS = GateSettings()
SLICES = 200


def count_stopped(world: World, worth: float) -> int:
    """Of `SLICES` candidates that are worth so much of the live version."""
    found = [
        probability_worse(*each, SETTINGS.margin) for each in slices(world, worth, SLICES, seed=3)
    ]
    return sum(share >= SETTINGS.confidence for share in found)


@pytest.mark.parametrize(("events", "people"), [(100, 30), (200, 60), (1000, 100)])
def test_an_equal_candidate_passes_nine_times_in_ten(events: int, people: int) -> None:
    assert count_stopped(World(events, people), worth=1.0) <= SLICES // 10


@pytest.mark.parametrize(("events", "people"), [(100, 30), (200, 60), (1000, 100)])
def test_a_ruined_candidate_is_stopped(events: int, people: int) -> None:
    assert count_stopped(World(events, people), worth=0.1) >= SLICES * 95 // 100


def test_more_events_see_smaller_losses() -> None:
    found = [count_stopped(World(events, 60), worth=0.8) for events in (60, 200, 1000)]
    assert found == sorted(found)
    assert found[0] < SLICES // 2
    assert found[-1] > SLICES * 8 // 10


def test_a_better_candidate_is_hardly_ever_stopped() -> None:
    assert count_stopped(World(150, 40), worth=1.2) <= SLICES // 50


def test_the_margin_is_a_share_of_the_live_version_s() -> None:
    live, people = np.full(100, 0.5), np.arange(100)
    assert probability_worse(0.94 * live, live, people, margin=0.05) == 1
    assert probability_worse(0.96 * live, live, people, margin=0.05) == 0
    assert probability_worse(np.zeros(100), np.zeros(100), people, margin=0.05) == 0


def test_people_are_drawn_with_all_their_events() -> None:
    """One busy person for whom it is worse is no sign that it is worse for others."""
    candidate, live = np.zeros(60), np.zeros(60)
    live[:40], candidate[40:] = 0.5, 0.5
    everyone = np.arange(60)
    assert probability_worse(candidate, live, everyone, margin=0.0) > SETTINGS.confidence
    busy = np.where(everyone < 40, 0, everyone)
    assert probability_worse(candidate, live, busy, margin=0.0) < SETTINGS.confidence


def test_the_answer_is_the_same_every_time() -> None:
    (each,) = slices(World(), worth=0.9, count=1, seed=1)
    assert probability_worse(*each, 0.05) == probability_worse(*each, 0.05)


def test_one_person_is_judged_by_the_mean_and_nobody_is_not_worse() -> None:
    people = np.zeros(4, np.int64)
    assert probability_worse(np.full(4, 0.1), np.full(4, 0.5), people, margin=0.05) == 1
    assert probability_worse(np.zeros(0), np.zeros(0), people[:0], margin=0.05) == 0
