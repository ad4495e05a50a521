"""The slow loop: what windows bring becomes a version that passes the gate and takes traffic.

Read, learn, export, judge, commit, go live: a `SlowLoopStep` says how far the newest windows came.
Whatever stops one, the live version goes on.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import structlog
from headwater_client.errors import DataError, ServerError
from headwater_client.events import Item

from features.schema import check_version_fits
from trainer import gate
from trainer.evaluation import hold_out
from trainer.examples import DataSplits, EventHistory, Examples, split_by_time
from trainer.export import ExportError
from trainer.gate import measure
from trainer.network import TrainedModel
from trainer.progress import Stopwatch
from trainer.registry import (
    GRAPH,
    Lineage,
    ModelRegistry,
    ModelVersion,
    ReleaseVersion,
    RolloutRejectedError,
    WriteExtras,
    checkpoint,
    exact_graph,
)
from trainer.registry.checkpoint import load_parent
from trainer.retrying import retrying
from trainer.settings import FineTuneSettings, GateSettings, TrainerSettings
from trainer.text import TextEncoder
from trainer.training import TrainingSetup, fine_tune
from trainer.windows.store import QuarantinedWindows, WindowStore, read_log

_CHANGED = "another version has become live meanwhile: made again from that one"
log = structlog.get_logger()


# Given a model that passed, and all events so far as it sees them: writes what its version has
# besides.
OnGatePassed = Callable[[TrainedModel, Examples], WriteExtras]


@dataclass(frozen=True)
class Serving:
    """Where versions go.

    Attributes:
        release: sends traffic to a version that is loaded; None: everyone's, at once.
        on_gate_passed: writes what a version that passed has besides; None for nothing.
    """

    registry: ModelRegistry
    release: ReleaseVersion | None = None
    on_gate_passed: OnGatePassed | None = None


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
    verdict: gate.Verdict | None
    reason: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Live:
    version: ModelVersion
    trained: TrainedModel

    @property
    def judged_version(self) -> measure.JudgedVersion:
        return measure.JudgedVersion(
            self.version.number, self.trained, exact_graph(self.version.folder)
        )


class SlowLoop:
    """Holds the history and the live version in memory; one for a model repository.

    Args:
        windows: all events that versions learn from, from the first one on.
        text_encoder: reads the items' texts; None for a model without.
    """

    def __init__(
        self,
        windows: WindowStore,
        serving: Serving,
        rules: SlowLoopSettings,
        text_encoder: TextEncoder | None,
    ) -> None:
        self._windows = windows
        self._serving = serving
        self._rules = rules
        self._registry = serving.registry
        self._schema = serving.registry.schema
        self._text_encoder = text_encoder
        self._history = EventHistory(self._schema)
        self._left_out = QuarantinedWindows(serving.registry.repository.folder)
        self._known: list[int] = []
        self._passed_over = self._passed_over_ms = 0

    def start(self, items: Sequence[Item]) -> bool:
        """Go on from wherever the last trainer ended; whether windows wait to be learned.

        Args:
            items: the catalogue.

        Raises:
            DataError: no version is live, or it is damaged.
            SettingsError: it was trained on other features.
            ServerError: Triton or Kafka does not answer, or Triton would refuse what is trained.
        """
        self._live = self._load(self._recover())
        self._registry.probe()
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
            self._follow(self._recover())
            self._history.extend([], items)
            if self._tell_erasures(numbers):
                self._read_anew([*self._known, *numbers])
            else:
                for number in numbers:
                    self._read(number)
            windows = self._not_learned()
            if name := self._registry.undecided_rollout():
                reason = f"rollout {name} has no verdict yet: windows wait for it"
                return SlowLoopStep(windows, None, None, reason, clock.seconds)
        try:
            slices = self._slices()
        except DataError as error:
            return SlowLoopStep(windows, None, None, str(error), clock.seconds)
        with clock.stage("learn"):
            candidate = self._fine_tune(slices)
        found, version = self._judge(candidate, windows, slices, clock)
        if not found.passed:
            self._pass_over(windows, found)
            return SlowLoopStep(windows, None, found, "; ".join(found.refusals), clock.seconds)
        if version is None:
            return SlowLoopStep(windows, None, found, _CHANGED, clock.seconds)
        try:
            with clock.stage("go live"):
                is_live = self._registry.go_live(version, self._serving.release)
        except (ServerError, RolloutRejectedError) as error:
            if version.folder.is_dir():
                # It is whole: who starts next goes on with it.
                raise
            return SlowLoopStep(windows, None, found, str(error), clock.seconds)
        if is_live:
            self._live = _Live(version, candidate)
        return SlowLoopStep(windows, version, found, "", clock.seconds)

    def _pass_over(self, windows: Sequence[int], found: gate.Verdict) -> None:
        """The next version learns nothing of these as new; what is doubted is in no history.

        What says nothing of events, such as a slow graph, is no reason to pass them over.
        """
        if found.doubts_window:
            log.warning("windows_left_out", windows=windows)
            self._left_out.add(map(self._windows.manifest, windows))
            self._read_anew(self._known)
        elif found.doubts_model:
            newest_ms = int(self._history.times_ms.max())
            # A clock may run ahead; what is really of that time is still to come.
            self._passed_over_ms = min(newest_ms, int(time.time() * 1000))
            self._passed_over = max(windows, default=0)

    def _tell_erasures(self, numbers: Sequence[int]) -> bool:
        """Whether people were taken out of what was read before: no version learns from them."""
        found = 0
        for number in numbers:
            # That it cannot be read is logged when it is.
            with suppress(DataError):
                found += self._windows.manifest(number).erasures
        return found > 0

    def _read_anew(self, numbers: Sequence[int]) -> None:
        """Make the history anew of windows, as they are now."""
        self._history = EventHistory(self._schema, self._history.catalogue.values())
        self._known = []
        for number in numbers:
            self._read(number)

    def _recover(self) -> ModelVersion:
        version = self._registry.recover(self._serving.release)
        if version is None:
            raise DataError(
                f"{self._registry.repository.folder}: no version is live that could learn from "
                "windows: train a first one: headwater train"
            )
        return version

    def _follow(self, version: ModelVersion) -> None:
        """Go on from what is live: somebody may have gone back to an older version."""
        if version != self._live.version:
            log.info("live_version_changed", version=version.number)
            self._live = self._load(version)

    def _load(self, version: ModelVersion) -> _Live:
        check_version_fits(version.address, self._schema.contract)
        return _Live(version, load_parent(version.folder, self._text_encoder))

    def _read(self, number: int) -> None:
        """Add a window to the history, where it can be read and was not left out before."""
        try:
            manifest = self._windows.manifest(number)
            if manifest in self._left_out:
                return
            events = read_log(self._windows, [number]).events
        except DataError as error:
            log.warning("window_left_out", window=number, reason=str(error))
            return
        self._known.append(number)
        self._history.merge(manifest.merges)
        self._history.extend(events)

    def _not_learned(self) -> tuple[int, ...]:
        """The windows that neither the live version nor one before it has learned."""
        if learned := self._find_learned():
            return tuple(one for one in self._known if one > max(learned, self._passed_over))
        # A first version, of a log: what of it came by Kafka as well is in windows, too.
        since_ms = self._live.trained.until_ms or 0
        later = (number for number in self._known if number > self._passed_over)
        return tuple(one for one in later if self._windows.manifest(one).last_ms > since_ms)

    def _find_learned(self) -> int:
        """The newest window that the live version or one before it says it learned; 0: none."""
        folder = self._live.version.folder
        while not (manifest := checkpoint.read_manifest(folder)).windows:
            if manifest.parent is None:
                return 0
            folder = self._registry.repository.version(manifest.parent).folder
            if not folder.is_dir():
                return 0
        return max(manifest.windows)

    @property
    def _since_ms(self) -> int | None:
        """Up to here events were learned, or passed over with a version that was refused."""
        until_ms = self._live.trained.until_ms
        return None if until_ms is None else max(until_ms, self._passed_over_ms)

    def _slices(self) -> DataSplits:
        """What of the new events is learned, and what judges.

        Raises:
            DataError: there are too few of them, so far.
        """
        times_ms, least = self._history.times_ms, self._rules.gate.min_events
        slices = split_by_time(times_ms, self._since_ms, self._rules.fine_tune)
        judging = int((slices.holdout_mask(times_ms) & self._history.is_target).sum())
        if judging < least:
            raise DataError(
                f"{judging} new events would judge a version, fewer than {least}: waiting for more"
            )
        return slices

    def _fine_tune(self, slices: DataSplits) -> TrainedModel:
        rules = self._rules
        return fine_tune(
            self._live.trained,
            self._history,
            slices,
            TrainingSetup(rules.trainer, rules.fine_tune, self._text_encoder),
        )

    def _judge(
        self,
        candidate: TrainedModel,
        windows: tuple[int, ...],
        slices: DataSplits,
        clock: Stopwatch,
    ) -> tuple[gate.Verdict, ModelVersion | None]:
        """The verdict, and the version that was kept: it passed, and what is live is so still."""
        with ExitStack() as stack:
            try:
                with clock.stage("export"):
                    lineage = Lineage(self._live.version.number, windows)
                    staged = stack.enter_context(self._registry.stage(candidate, lineage))
            except ExportError as error:
                log.warning("version_not_exported", reason=str(error))
                with clock.stage("judge"):
                    return self._verdict(
                        measure.JudgedVersion(self._registry.next_number(), candidate, None), slices
                    ), None
            with clock.stage("judge"):
                graph = staged.folder / GRAPH
                found = self._verdict(
                    measure.JudgedVersion(staged.number, candidate, graph), slices
                )
            if not found.passed or self._registry.live_version() != self._live.version.number:
                return found, None
            if on_gate_passed := self._serving.on_gate_passed:
                with clock.stage("finish"):
                    events = self._history.examples(candidate.vocabulary)
                    staged.write_extras(on_gate_passed(candidate, events))
            with clock.stage("keep"):
                return found, staged.commit(gate.encode_verdict(found), _metrics(found))

    def _verdict(self, candidate: measure.JudgedVersion, slices: DataSplits) -> gate.Verdict:
        live = self._live.judged_version
        vocabularies = [one.trained.vocabulary for one in (live, candidate)]
        held = hold_out(self._history, slices.judge_ms, vocabularies)
        window = hold_out(self._history, slices.since_ms + 1, vocabularies)
        measured = measure.measure(candidate, live, held, self._schema, window)
        found = gate.verdict(measured, self._rules.gate)
        keep = retrying(self._rules.trainer.publish_retry_s, DataError)
        keep(gate.record_verdict, found, self._registry.repository.folder / gate.VERDICTS)
        return found


def _metrics(found: gate.Verdict) -> dict[str, float]:
    """What the manifest says of a version: NDCG@10 and hit rates on what judged it."""
    return {
        "ndcg_at_10": found.candidate.ndcg_at_10,
        "hr_at_10": found.candidate.hr_at_10,
        "live_ndcg_at_10": found.reference.ndcg_at_10,
    }
