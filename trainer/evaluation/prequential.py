"""Test, then train: versions judged on each window of a log before they learn from it.

A. Dawid, "Present position and potential developments: some personal views. Statistical theory: the
prequential approach", Journal of the Royal Statistical Society A, 1984.

E events of the log, in the order of `Examples`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from headwater_client.errors import DataError
from headwater_client.events import Interaction

from features.schema import FeatureSchema, Float64Array, Vocabulary
from features.topics import hash64
from trainer.datasets import Log
from trainer.evaluation.evaluate import SNAPSHOT_MS, HoldoutSet, rank_batches
from trainer.examples import BoolArray, EventHistory, split_by_time
from trainer.metrics import ndcg
from trainer.network import TrainedModel, batch_scores
from trainer.training import TrainingSetup, fine_tune, train_first_model

FIRST_SHARE = 0.3
# One person in so many is never learned from: on their events it shows what is forgotten.
LEFT_OUT = 10

Events = Sequence[Interaction]


@dataclass(frozen=True)
class PrequentialStep:
    """The version that is live when a window begins, and what making it cost.

    Attributes:
        window: the number of the window, or of how many there are for the one after all.
        seconds: of CPU.
        gradients: events learned, each as often as it was.
    """

    window: int
    trained: TrainedModel
    seconds: float
    gradients: int


class WindowedLog:
    """A log as its first part and windows of about `size` events; an instant is in one window.

    Attributes:
        first: what the first model learns from.
        windows: the events of each, one after another.
        window_of: int64[E], the window of each event, -1 in the first part.
        person: int64[E], a number for each person.
        left_out: bool[E], events of people who are never learned from.
        is_target: bool[E], as in `Examples`.

    Raises:
        DataError: the log is too short for a window after its first part.
    """

    def __init__(self, log: Log, schema: FeatureSchema, size: int) -> None:
        self.log = log
        self.schema = schema
        self.first, later = log.split(FIRST_SHARE)
        self.windows = list(_windows(later, size))
        if not self.first.events or not self.windows:
            raise DataError(
                f"{len(log.events)} events are too few to learn from the first "
                f"{FIRST_SHARE:.0%} and judge the rest"
            )
        self._whole = EventHistory(schema, log.items)
        self._whole.extend(log.events)
        columns = self._whole.examples(Vocabulary([]))
        begins_ms = [window[0].timestamp for window in self.windows]
        self.window_of = np.searchsorted(begins_ms, columns.times_ms, side="right") - 1
        _, self.person = np.unique(columns.starts, return_inverse=True)
        self.left_out: BoolArray = np.array([*map(is_unlearned, self._whole.users)])[self.person]
        self.is_target = columns.is_target

    def select_learned(self, events: Events) -> list[Interaction]:
        """The events of people who are learned from."""
        return [event for event in events if not is_unlearned(event.user_id)]

    def learned_log(self, window: int) -> Log:
        """What there is to learn from when a window begins."""
        earlier = [event for one in self.windows[:window] for event in one]
        return replace(self.first, events=self.select_learned([*self.first.events, *earlier]))

    def gains(self, trained: TrainedModel, chosen: BoolArray) -> Float64Array:
        """NDCG@10 of each chosen event that could have been right, one step ahead: float[E].

        The history is the true one, trends are those of the moment, and what was taken is left out;
        0 for an item that the version does not know, and for what is not chosen.
        """
        chosen = chosen & self.is_target
        columns = self._whole.examples(trained.vocabulary)
        asked_ms = columns.times_ms[chosen]
        trended = self._whole.trends(trained.vocabulary, asked_ms, SNAPSHOT_MS)
        held = HoldoutSet(columns, chosen, trended, trained.vocabulary)
        batches = held.batches(self.schema.settings.history_length)
        (found,) = rank_batches(batches, [partial(batch_scores, trained.model)])
        return ndcg(found.ranks)


def is_unlearned(user_id: str) -> bool:
    """Whether a person is never learned from."""
    return hash64(user_id) % LEFT_OUT == 0


def train_before(stream: WindowedLog, window: int, setup: TrainingSetup) -> PrequentialStep:
    """A version trained from nothing on all that was before a window."""
    began = time.process_time()
    log = stream.learned_log(window)
    trained = train_first_model(log, stream.schema, setup)
    return PrequentialStep(window, trained, time.process_time() - began, trained.outcome.gradients)


def keep_first_version(first: TrainedModel, stream: WindowedLog) -> Iterator[PrequentialStep]:
    """The first version for all windows."""
    for number in range(len(stream.windows)):
        yield PrequentialStep(number, first, 0.0, 0)


def fine_tune_versions(
    first: TrainedModel, stream: WindowedLog, setup: TrainingSetup
) -> Iterator[PrequentialStep]:
    """Each window's version and the one after all, each fine-tuned from the one before.

    Where a window has nothing to learn from, the one before goes on.
    """
    history = EventHistory(stream.schema, stream.log.items)
    history.extend(stream.select_learned(stream.first.events))
    live = first
    yield PrequentialStep(0, live, 0.0, 0)
    for number, events in enumerate(stream.windows, 1):
        began, gradients = time.process_time(), 0
        if new := stream.select_learned(events):
            history.extend(new)
            live = _next(live, history, setup)
            gradients = live.outcome.gradients
        yield PrequentialStep(number, live, time.process_time() - began, gradients)


def _next(live: TrainedModel, history: EventHistory, setup: TrainingSetup) -> TrainedModel:
    cut = split_by_time(history.times_ms, live.until_ms, setup.fine_tuning)
    return fine_tune(
        live,
        history,
        cut,
        setup,
    )


@dataclass(frozen=True)
class PrequentialRun:
    """How the versions of one way did, window by window.

    Attributes:
        gains: float[E], NDCG@10 of each event by the version before its window; NaN where no
            version was asked.
        kept: float[E] each, of people who are left out and of all windows that were learned: by
            the version right after the event's window, and by the last one. None for a way that
            does not go on setup.
        seconds, gradients: what each version cost, by window.
    """

    gains: Float64Array
    kept: tuple[Float64Array, Float64Array] | None
    seconds: dict[int, float]
    gradients: dict[int, int]


def run_prequential(
    steps: Iterable[PrequentialStep],
    stream: WindowedLog,
    report: Callable[[PrequentialStep, float], None],
) -> PrequentialRun:
    """Ask each version about its window, and what it just learned of people left out.

    Args:
        report: called with each version and its NDCG@10 on its window.
    """
    found = np.full(len(stream.window_of), np.nan)
    after = np.zeros(len(found))
    seconds, gradients, last = {}, {}, None
    for step in steps:
        seconds[step.window], gradients[step.window] = step.seconds, step.gradients
        mine = (stream.window_of == step.window) & stream.is_target
        before = (stream.window_of == step.window - 1) & (step.window > 0) & stream.left_out
        asked = stream.gains(step.trained, mine | before)
        found[mine], after[before] = asked[mine], asked[before]
        if mine.any():
            report(step, float(found[mine].mean()))
        last = step
    kept = None
    if last and last.window == len(stream.windows):
        kept = after, stream.gains(last.trained, stream.left_out & (stream.window_of >= 0))
    return PrequentialRun(found, kept, seconds, gradients)


def first_late_window(windows: int) -> int:
    """The first window of the last third, of so many.

    >>> first_late_window(43)
    29
    """
    return windows - max(1, windows // 3)


def forgetting(one: PrequentialRun, stream: WindowedLog, until: int) -> float:
    """The share of NDCG@10 lost by the end, on what was known right after each window.

    Only events of people who are never learned from count: asked of the version that had just
    learned from the others of that window, and of the last one. Below 0 it has gained.

    Args:
        until: windows from this one on are not old enough to be forgotten.
    """
    old = stream.left_out & stream.is_target & (stream.window_of >= 0) & (stream.window_of < until)
    if one.kept is None or not old.any():
        return 0.0
    after, last = (asked[old].mean() for asked in one.kept)
    return float(1 - last / after) if after else 0.0


def _windows(log: Log, size: int) -> Iterator[Events]:
    """Windows of at least so many events, the last one what is left; an instant is in one."""
    at, events = 0, log.events
    while at < len(events):
        end = min(at + size, len(events))
        while end < len(events) and events[end].timestamp == events[end - 1].timestamp:
            end += 1
        yield events[at:end]
        at = end
