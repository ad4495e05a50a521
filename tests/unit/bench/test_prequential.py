"""The prequential benchmark's figures by hand, and its ways on a small log."""

from __future__ import annotations

from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from headwater_client.errors import SettingsError
from headwater_client.events import Click
from rich.console import Console

from bench.prequential.__main__ import (
    FROZEN,
    INCREMENTAL,
    RETRAIN,
    WITHOUT_REPLAY,
    check_retrained,
    draw,
    figures,
    follow,
    kept_first,
    learn_in_ways,
    make_ways_table,
    retrain,
)
from features.schema import FeatureSchema, Float64Array
from features.settings import FeatureSettings
from tests.harness.builders import click
from tests.harness.walks import walks
from trainer.datasets import Log
from trainer.evaluation.prequential import PrequentialRun, WindowedLog, is_unlearned
from trainer.settings import FineTuneSettings, TrainerSettings
from trainer.training import TrainingSetup

NAN = float("nan")
SCHEMA = FeatureSchema(FeatureSettings())
LEARNED, LEFT_OUT = (
    next(name for name in map("u{}".format, count()) if is_unlearned(name) is left_out)
    for left_out in (False, True)
)


@pytest.fixture(scope="module")
def stream() -> WindowedLog:
    """A first part, then six windows of two events: one of a person that is left out."""
    events: list[Click] = []
    for number in range(9):
        events += (click(who, f"i{number}", second=number) for who in (LEARNED, LEFT_OUT))
    windowed = WindowedLog(Log(events, []), SCHEMA, 2)
    assert len(windowed.windows) == 6
    return windowed


def by_window(stream: WindowedLog, values: list[float]) -> Float64Array:
    """Each event's number, by its window; none of the first part."""
    return np.where(stream.window_of < 0, NAN, np.array(values)[stream.window_of])


def way(
    stream: WindowedLog, gains: list[float], last: list[float] | None = None, cost: float = 0.0
) -> PrequentialRun:
    """A way that was asked about the windows whose NDCG@10 is a number.

    Args:
        last: NDCG@10 of the last version on each window; .5 of the one right after it.
    """
    windows = [number for number, gain in enumerate(gains) if not np.isnan(gain)]
    kept = (by_window(stream, [0.5] * 6), by_window(stream, last)) if last else None
    return PrequentialRun(
        by_window(stream, gains),
        kept,
        dict.fromkeys(windows, cost),
        dict.fromkeys(windows, round(100 * cost)),
    )


def test_ratios_are_of_the_last_third_and_of_windows_that_both_were_asked_about(
    stream: WindowedLog,
) -> None:
    found = figures(
        {
            FROZEN: way(stream, [0.1, 0.1, 0.1, 0.1, 0.2, 0.2]),
            INCREMENTAL: way(stream, [0.1, 0.1, 0.1, 0.1, 0.2, 0.4], [0.4] * 4 + [0.1] * 2, 2.0),
            WITHOUT_REPLAY: way(stream, [0.1] * 6, [0.5] * 6, 1.0),
            RETRAIN: way(stream, [0.1, NAN, NAN, NAN, NAN, 0.5], cost=20.0),
        },
        stream,
    )
    assert found["first_late_window"] == 4
    assert found["over_frozen"] == pytest.approx(1.5)
    assert found["over_retrain"] == pytest.approx(0.8)
    assert found["cost_over_retrain"] == pytest.approx(0.1)
    assert found["forgetting"] == {
        INCREMENTAL: pytest.approx(0.2),
        WITHOUT_REPLAY: pytest.approx(0.0),
    }
    assert found["series"][RETRAIN] == [0.1, None, None, None, None, 0.5]
    # Both people gain as much.
    assert found["over_frozen_interval"] == pytest.approx([1.5, 1.5])
    _check_shown(found)


def _check_shown(found: dict[str, object]) -> None:
    """People see the same: a row and a line a way, the caption with the ratios."""
    text = StringIO()
    Console(file=text, width=160).print(make_ways_table(found))
    for said in (FROZEN, INCREMENTAL, WITHOUT_REPLAY, RETRAIN, "over frozen 1.500", "20.0%"):
        assert said in text.getvalue()
    above, below = draw(found | {"window_events": 2}).axes
    assert [line.get_label() for line in above.lines] == list(found["series"])  # type: ignore[call-overload]
    assert len(below.lines) == 4


@pytest.fixture(scope="module")
def learning() -> TrainingSetup:
    settings = TrainerSettings(epochs=1, threads=1, width=8, layers=2, language_model="")
    return TrainingSetup(settings, FineTuneSettings(epochs=1), None)


def test_each_way_is_asked_about_its_windows_and_full_trainings_are_taken_up(
    learning: TrainingSetup, tmp_path: Path
) -> None:
    people = WindowedLog(Log(walks(range(14), 1), []), SCHEMA, 20)
    first = kept_first(people, learning, tmp_path)
    text = StringIO()
    ask = partial(follow, stream=people, console=Console(file=text))
    courses = {
        name: ask(name, steps)
        for name, steps in learn_in_ways(people, learning, first.trained).items()
    }
    courses[RETRAIN] = ask(RETRAIN, retrain(people, learning, 3, tmp_path))
    found = figures(courses, people)
    assert found["windows"] == len(people.windows) == 4
    for name in (FROZEN, INCREMENTAL, WITHOUT_REPLAY):
        assert all(score is not None for score in found["series"][name])
    assert [score is not None for score in found["series"][RETRAIN]] == [True, False, False, True]
    # All begin with the same version.
    assert len({series[0] for series in found["series"].values()}) == 1
    assert f"{INCREMENTAL}, window 3 of 4: NDCG@10" in text.getvalue()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = ask(RETRAIN, retrain(people, learning, 3, tmp_path))
    np.testing.assert_array_equal(again.gains, courses[RETRAIN].gains)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


@pytest.mark.parametrize(("windows", "every"), [(9, 50), (9, 9), (43, 28)])
def test_no_full_training_to_compare_with_is_an_error(windows: int, every: int) -> None:
    with pytest.raises(SettingsError, match=f"--retrain-every {every}: .* at most {windows // 3}"):
        check_retrained(windows, every)


def test_a_full_training_in_the_last_third_is_enough() -> None:
    check_retrained(43, 29)
    check_retrained(1, 5)
