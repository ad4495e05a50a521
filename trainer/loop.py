"""The slow loop: what windows bring becomes a version that passes the gate and takes traffic.

Read, learn, export, judge, commit, go live: a `SlowLoopStep` says how far the newest windows came.
Whatever stops one, the live version goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from headwater_client.errors import DataError, ServerError
from headwater_client.events import Item

from features.inputs import MODEL_NAME
from features.schema import FeatureSchema
from features.settings import KafkaSettings
from trainer.evaluation.held import held_of
from trainer.examples.history import History
from trainer.examples.replay import Examples
from trainer.examples.splits import Slices, slices_of
from trainer.export.onnx import ExportError
from trainer.gate.checks import Verdict, verdict
from trainer.gate.measure import JudgedVersion, measure
from trainer.gate.record import VERDICTS, encode, record
from trainer.network.trained import Trained
from trainer.registry import checkpoint
from trainer.registry.checkpoint import Lineage, parent
from trainer.registry.drafts import GRAPH, StagedVersion, drafted, exact_graph
from trainer.registry.live import RolloutRejectedError, announce, live_version, undecided
from trainer.registry.publish import ReleaseVersion, go_live, recover
from trainer.registry.repository import ModelVersion, version_numbers
from trainer.registry.triton import ModelServer
from trainer.retrying import retrying
from trainer.settings import FineTuneSettings, GateSettings, TrainerSettings
from trainer.stopwatch import Stopwatch
from trainer.text.encoder import LanguageModel
from trainer.training.fine_tune import fine_tune
from trainer.windows.log import read_log
from trainer.windows.quarantine import QuarantinedWindows
from trainer.windows.store import WindowStore

_CHANGED = "another version has become live meanwhile: made again from that one"
log = structlog.get_logger()


# Given a draft, its model, and all events so far as that model sees them.
OnGatePassed = Callable[[StagedVersion, Trained, Examples], None]


@dataclass(frozen=True)
class Serving:
    """Where versions go: their folder, Triton, and Kafka's `rollouts`.

    Attributes:
        release: what brings a version that is up to people.
        finish: writes what a version that passed has besides; None for nothing.
    """

    repository: Path
    server: ModelServer
    kafka: KafkaSettings
    release: ReleaseVersion = announce
    finish: OnGatePassed | None = None


@dataclass(frozen=True)
class SlowLoopSettings:
    """How versions are made and judged."""

    trainer: TrainerSettings
    fine_tune: FineTuneSettings
    gate: GateSettings


@dataclass(frozen=True)
class SlowLoopStep:
    """What became of some windows.

    Attributes:
        version: the one that takes traffic now, or is tried out; None where the one before goes on.
        verdict: None where there was nothing to judge.
        reason: why there is no new version, "" where there is one.
        seconds: that each stage took, in their order.
    """

    windows: tuple[int, ...]
    version: ModelVersion | None
    verdict: Verdict | None
    reason: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Live:
    version: ModelVersion
    trained: Trained

    @property
    def exported(self) -> JudgedVersion:
        return JudgedVersion(self.version.number, self.trained, exact_graph(self.version.folder))


class SlowLoop:
    """Holds the history and the live version in memory; one for a model repository.

    Args:
        windows: all events that versions learn from, from the first one on.
        reader: reads the items' texts; None for a model without.
    """

    def __init__(
        self,
        windows: WindowStore,
        serving: Serving,
        rules: SlowLoopSettings,
        schema: FeatureSchema,
        reader: LanguageModel | None,
    ) -> None:
        self._windows = windows
        self._serving = serving
        self._rules = rules
        self._schema = schema
        self._reader = reader
        self._history = History(schema)
        self._left_out = QuarantinedWindows(serving.repository)
        self._known: list[int] = []
        self._passed_over_ms = 0

    def start(self, items: Sequence[Item]) -> bool:
        """Go on from wherever the last trainer ended; whether windows wait to be learned.

        Args:
            items: the catalogue.

        Raises:
            DataError: no version is live, or it is damaged.
            ServerError: Triton or Kafka does not answer.
        """
        self._live = self._loaded(self._recovered())
        self._history.extend([], items)
        for number in self._windows.numbers():
            self._read(number)
        return bool(self._not_learned())

    def step(self, numbers: Sequence[int], items: Sequence[Item] = ()) -> SlowLoopStep:
        """Make a version of these windows, and of those that still wait.

        Args:
            numbers: windows that were not given before, ascending.
            items: what was said of the catalogue since.

        Raises:
            DataError: the live version is damaged, or a disk stays full.
            ServerError: Triton or Kafka does not answer for longer than it is waited for.
        """
        clock = Stopwatch()
        with clock.stage("read"):
            self._follow(self._recovered())
            self._history.extend([], items)
            for number in numbers:
                self._read(number)
            windows = self._not_learned()
            if name := undecided(self._serving.kafka):
                reason = f"rollout {name} has no verdict yet: windows wait for it"
                return SlowLoopStep(windows, None, None, reason, clock.seconds)
        try:
            slices = self._slices()
        except DataError as error:
            return SlowLoopStep(windows, None, None, str(error), clock.seconds)
        with clock.stage("learn"):
            candidate = self._fine_tuned(slices)
        found, version = self._judged(candidate, windows, slices, clock)
        if not found.passed:
            self._pass_over(windows, found)
            return SlowLoopStep(windows, None, found, "; ".join(found.refusals), clock.seconds)
        if version is None:
            return SlowLoopStep(windows, None, found, _CHANGED, clock.seconds)
        try:
            with clock.stage("go live"):
                self._go_live(version)
        except (ServerError, RolloutRejectedError) as error:
            if version.folder.is_dir():
                # It is whole: who starts next goes on with it.
                raise
            return SlowLoopStep(windows, None, found, str(error), clock.seconds)
        if self._serving.release is announce:
            self._live = _Live(version, candidate)
        return SlowLoopStep(windows, version, found, "", clock.seconds)

    def _pass_over(self, windows: Sequence[int], found: Verdict) -> None:
        """The next version learns nothing of these as new; what is doubted is in no history.

        What says nothing of events, such as a slow graph, is no reason to pass them over.
        """
        if found.doubts_window:
            log.warning("windows_left_out", windows=windows)
            self._left_out.add(map(self._windows.manifest, windows))
            self._history = History(self._schema, self._history.catalogue.values())
            known, self._known = self._known, []
            for number in known:
                self._read(number)
        elif found.doubts_model:
            newest_ms = int(self._history.times_ms.max())
            # A clock may run ahead; what is really of that time is still to come.
            self._passed_over_ms = min(newest_ms, int(time.time() * 1000))

    def _recovered(self) -> ModelVersion:
        serving, trainer = self._serving, self._rules.trainer
        version = recover(
            serving.repository,
            serving.server,
            serving.kafka,
            self._schema,
            trainer,
            serving.release,
        )
        if version is None:
            raise DataError(
                f"{serving.repository}: no version is live that could learn from windows: train a "
                "first one: headwater train"
            )
        return version

    def _follow(self, version: ModelVersion) -> None:
        """Go on from what is live: somebody may have gone back to an older version."""
        if version != self._live.version:
            log.info("live_version_changed", version=version.number)
            self._live = self._loaded(version)

    def _loaded(self, version: ModelVersion) -> _Live:
        return _Live(version, parent(version.folder, self._reader))

    def _read(self, number: int) -> None:
        """Add a window to the history, where it can be read and was not left out before."""
        try:
            if self._windows.manifest(number) in self._left_out:
                return
            events = read_log(self._windows, [number]).events
        except DataError as error:
            log.warning("window_left_out", window=number, reason=str(error))
            return
        self._known.append(number)
        self._history.extend(events)

    def _not_learned(self) -> tuple[int, ...]:
        """The windows with events that the live version and those before it have not learned."""
        learned = max(checkpoint.read_manifest(self._live.version.folder).windows, default=0)
        since_ms = self._since_ms or 0
        later = (number for number in self._known if number > learned)
        return tuple(one for one in later if self._windows.manifest(one).last_ms > since_ms)

    @property
    def _since_ms(self) -> int | None:
        """Up to here events were learned, or passed over with a version that was refused."""
        until_ms = self._live.trained.until_ms
        return None if until_ms is None else max(until_ms, self._passed_over_ms)

    def _slices(self) -> Slices:
        """What of the new events is learned, and what judges.

        Raises:
            DataError: there are too few of them, so far.
        """
        times_ms, least = self._history.times_ms, self._rules.gate.min_events
        slices = slices_of(times_ms, self._since_ms, self._rules.fine_tune)
        judging = int((slices.judged(times_ms) & self._history.wanted).sum())
        if judging < least:
            raise DataError(
                f"{judging} new events would judge a version, fewer than {least}: waiting for more"
            )
        return slices

    def _fine_tuned(self, slices: Slices) -> Trained:
        rules = self._rules
        return fine_tune(
            self._live.trained, self._history, slices, rules.trainer, rules.fine_tune, self._reader
        )

    def _judged(
        self, candidate: Trained, windows: tuple[int, ...], slices: Slices, clock: Stopwatch
    ) -> tuple[Verdict, ModelVersion | None]:
        """The verdict, and the version that was kept: it passed, and what is live is so still."""
        with ExitStack() as stack:
            try:
                with clock.stage("export"):
                    draft = stack.enter_context(self._drafted(candidate, windows))
            except ExportError as error:
                log.warning("version_not_exported", reason=str(error))
                with clock.stage("judge"):
                    return self._verdict(JudgedVersion(self._next(), candidate, None), slices), None
            with clock.stage("judge"):
                graph = draft.folder / GRAPH
                found = self._verdict(JudgedVersion(draft.number, candidate, graph), slices)
            if not found.passed or live_version(self._serving.kafka) != self._live.version.number:
                return found, None
            if self._serving.finish:
                with clock.stage("finish"):
                    self._finish(self._serving.finish, draft, candidate)
            with clock.stage("keep"):
                return found, draft.keep(encode(found), _metrics(found))

    def _drafted(
        self, candidate: Trained, windows: tuple[int, ...]
    ) -> AbstractContextManager[StagedVersion]:
        lineage = Lineage(self._live.version.number, windows)
        repository, trainer = self._serving.repository, self._rules.trainer
        return drafted(candidate, repository, self._schema, trainer, lineage)

    def _finish(self, finish: OnGatePassed, draft: StagedVersion, candidate: Trained) -> None:
        events = self._history.examples(candidate.vocabulary)
        draft.finish(lambda one: finish(one, candidate, events))

    def _next(self) -> int:
        return max(version_numbers(self._serving.repository / MODEL_NAME)) + 1

    def _verdict(self, candidate: JudgedVersion, slices: Slices) -> Verdict:
        live = self._live.exported
        vocabularies = [one.trained.vocabulary for one in (live, candidate)]
        held = held_of(self._history, slices.judge_ms, vocabularies)
        window = held_of(self._history, slices.since_ms + 1, vocabularies)
        measured = measure(candidate, live, held, self._schema, window)
        found = verdict(measured, self._rules.gate)
        keep = retrying(self._rules.trainer.publish_retry_s, DataError)
        keep(record, found, self._serving.repository / VERDICTS)
        return found

    def _go_live(self, version: ModelVersion) -> None:
        serving = self._serving
        go_live(
            version,
            serving.server,
            serving.kafka,
            self._schema,
            self._rules.trainer,
            serving.release,
        )


def _metrics(found: Verdict) -> dict[str, float]:
    """What the manifest says of a version: NDCG@10 and hit rates on what judged it."""
    return {
        "ndcg_at_10": found.candidate.ndcg_at_10,
        "hr_at_10": found.candidate.hr_at_10,
        "live_ndcg_at_10": found.reference.ndcg_at_10,
    }
