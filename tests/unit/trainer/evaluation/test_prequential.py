"""Each version is asked about a window before it learns from it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from headwater_client.errors import DataError

from features.schema import FeatureSchema
from tests.harness.walks import LENGTH, walks
from tests.unit.trainer.training.test_fine_tune import BEFORE, FILMS, SETTINGS, TEXT_ENCODER, TUNING
from trainer.datasets import Log
from trainer.evaluation import evaluate
from trainer.evaluation.prequential import (
    PrequentialRun,
    PrequentialStep,
    WindowedLog,
    fine_tune_versions,
    is_unlearned,
    run_prequential,
    train_before,
)
from trainer.settings import FineTuneScope
from trainer.training import TrainingSetup

LOG = Log([*BEFORE, *walks(range(50, 130), 3)], FILMS)
LEARNING = TrainingSetup(SETTINGS, TUNING.model_copy(update={"epochs": 4}), TEXT_ENCODER)
SIZE = 150


@pytest.fixture(scope="module")
def stream(schema: FeatureSchema) -> WindowedLog:
    return WindowedLog(LOG, schema, SIZE)


@pytest.fixture(scope="module")
def first(stream: WindowedLog) -> PrequentialStep:
    return train_before(stream, 0, LEARNING)


@pytest.fixture(scope="module")
def steps(stream: WindowedLog, first: PrequentialStep) -> list[PrequentialStep]:
    return list(fine_tune_versions(first.trained, stream, LEARNING))


@pytest.fixture(scope="module")
def learned(stream: WindowedLog, steps: list[PrequentialStep]) -> PrequentialRun:
    return run_prequential(steps, stream, lambda *_: None)


def test_windows_follow_the_first_part_and_share_no_instant(stream: WindowedLog) -> None:
    events = [*stream.first.events, *(event for window in stream.windows for event in window)]
    assert events == list(LOG.events)
    assert all(len(window) >= SIZE for window in stream.windows[:-1])
    ends = [window[-1].timestamp for window in stream.windows[:-1]]
    begins = [window[0].timestamp for window in stream.windows[1:]]
    assert all(end < begin for end, begin in zip(ends, begins, strict=True))
    assert np.bincount(stream.window_of + 1).tolist() == [
        len(stream.first.events),
        *map(len, stream.windows),
    ]


def test_a_version_has_learned_nothing_of_its_window(
    stream: WindowedLog, steps: list[PrequentialStep]
) -> None:
    assert [step.window for step in steps] == list(range(len(stream.windows) + 1))
    for step, events in zip(steps[:-1], stream.windows, strict=True):
        assert step.trained.until_ms is not None
        assert step.trained.until_ms < events[0].timestamp


def test_some_people_are_never_learned_from(stream: WindowedLog) -> None:
    log = stream.learned_log(len(stream.windows))
    names = {event.user_id for event in LOG.events}
    out = {name for name in names if is_unlearned(name)}
    assert 0 < len(out) < len(names) / 4
    assert {event.user_id for event in log.events} == names - out
    assert stream.left_out.sum() == sum(event.user_id in out for event in LOG.events)


def test_it_judges_as_evaluate_does(
    stream: WindowedLog, first: PrequentialStep, schema: FeatureSchema
) -> None:
    chosen = stream.window_of >= 0
    later = Log([event for window in stream.windows for event in window], FILMS)
    found = evaluate(first.trained, stream.first, later, schema).model.overall
    gains = stream.gains(first.trained, chosen)[chosen & stream.is_target]
    assert len(gains) == found.events
    assert gains.mean() == pytest.approx(found.ndcg_at_10)


def test_learning_from_windows_beats_what_is_frozen(
    stream: WindowedLog, first: PrequentialStep, learned: PrequentialRun
) -> None:
    """After the first windows everyone goes by threes."""
    frozen = run_prequential(
        (PrequentialStep(at, first.trained, 0.0, 0) for at in range(len(stream.windows))),
        stream,
        lambda *_: None,
    )
    late = stream.is_target & (stream.window_of >= len(stream.windows) - 1)
    assert learned.gains[late].mean() > frozen.gains[late].mean() + 0.1
    early = stream.is_target & (stream.window_of == 0)
    np.testing.assert_array_equal(learned.gains[early], frozen.gains[early])
    assert frozen.kept is None
    assert np.isnan(learned.gains[stream.window_of < 0]).all()


def test_what_is_kept_is_asked_right_after_a_window_and_at_the_end(
    stream: WindowedLog, steps: list[PrequentialStep], learned: PrequentialRun
) -> None:
    assert learned.kept is not None
    after, last = learned.kept
    mine = stream.left_out & (stream.window_of == 1)
    np.testing.assert_array_equal(after[mine], stream.gains(steps[2].trained, mine)[mine])
    np.testing.assert_array_equal(last[mine], stream.gains(steps[-1].trained, mine)[mine])
    assert not after[~stream.left_out].any()


def test_costs_are_those_of_each_version(
    steps: list[PrequentialStep], learned: PrequentialRun
) -> None:
    assert learned.gradients == {step.window: step.gradients for step in steps}
    assert learned.gradients[0] == 0
    assert all(learned.gradients[at] > 0 for at in range(1, len(steps)))


def test_a_window_of_nothing_but_people_left_out_teaches_nothing(
    first: PrequentialStep, schema: FeatureSchema
) -> None:
    """Each window is one person's walk."""
    small = WindowedLog(LOG, schema, LENGTH)
    teaches = [not is_unlearned(window[0].user_id) for window in small.windows]
    assert not all(teaches)
    counting = replace(
        LEARNING, fine_tuning=TUNING.model_copy(update={"part": FineTuneScope.NOTHING})
    )
    steps = fine_tune_versions(first.trained, small, counting)
    changed = [after.trained is not before.trained for before, after in pairwise(steps)]
    assert changed == teaches


def test_a_log_without_a_window_is_an_error(schema: FeatureSchema) -> None:
    with pytest.raises(DataError, match="1 events are too few"):
        WindowedLog(LOG.head(1), schema, SIZE)
