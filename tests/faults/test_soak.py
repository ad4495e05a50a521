"""A short soak: a whole fleet on real servers, while most kinds of fault strike once."""

from __future__ import annotations

import random

import pytest
from rich.console import Console

from bench.soak.__main__ import NONE_OF, SoakOptions, measure

# Which of the kinds, the seed says: each in two runs of five.
EVENTS, FAULTS = 2_000, 6


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_fleet_loses_and_doubles_nothing_whatever_strikes() -> None:
    seed = random.randrange(2**16)
    print(f"seed {seed}")
    options = SoakOptions(events=EVENTS, faults=FAULTS, seed=seed, rate=100.0)
    figures = measure(options, Console()).figures
    faults = "\n".join(f"{each['at_event']}: {each['fault']}" for each in figures["told"])
    assert {name: figures[name] for name in NONE_OF} == dict.fromkeys(NONE_OF, 0), faults
    assert figures["settled"], faults
    assert figures["events"] == EVENTS
    assert figures["faults"] == FAULTS
    assert not [each for each in figures["told"] if each["error"]], faults
