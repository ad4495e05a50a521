"""From a trained model to one that answers: version folder, Triton, announcement.

A version appears whole or not at all: it is written and checked in staging, renamed, loaded, asked
once, and only then announced. What a dead trainer left is finished or removed: docs/decisions/0013.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from headwater_client.errors import DataError, HeadwaterError, ServerError
from tenacity import Retrying

from features.inputs import MODEL_NAME
from features.model_server import ModelServer, ServerUnavailableError
from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.rollouts import RolloutView, write_rollout_message
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from trainer.export import ScoringGraph
from trainer.export.onnx import OPSET, check_graph, write_probe
from trainer.network import TrainedModel
from trainer.registry import checkpoint
from trainer.registry.checkpoint import FIRST, Lineage
from trainer.registry.loaded import LoadedVersions
from trainer.registry.repository import ModelRepository, ModelVersion
from trainer.registry.staging import GRAPH, StagedVersion, VersionWriter, WriteExtras
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

log = structlog.get_logger()

# Sends traffic to a version that is loaded; whether all of it, so that the version is live.
ReleaseVersion = Callable[[ModelVersion], bool]


class RolloutRejectedError(HeadwaterError):
    """A version that was to be tried out gets no traffic."""


class ModelRegistry:
    """Makes versions of a model and brings them live: the only writer of its repository.

    Args:
        folder: the model repository that Triton reads.
        servers: the Tritons that versions are loaded into, one or more.
        kafka: where versions are announced.
        schema: of the rows that versions read.
        settings: how long it waits for servers and disks, and how many versions it keeps.

    Attributes:
        repository: what is on disk.
        loaded: what the Tritons have of it.
        rollouts: what was announced.
    """

    def __init__(
        self,
        folder: Path,
        servers: Sequence[ModelServer],
        kafka: BrokerSettings,
        schema: FeatureSchema,
        settings: TrainerSettings,
    ) -> None:
        self.repository = ModelRepository(folder)
        self.rollouts = RolloutView(kafka, MODEL_NAME)
        self.servers = servers
        self.loaded = LoadedVersions(self.repository, servers, schema)
        self.schema = schema
        self.settings = settings
        self._kafka = kafka

    def close(self) -> None:
        """Disconnect from Kafka."""
        self.rollouts.close()

    def check_features(self) -> None:
        """Refuse features that the repository's versions are not for, before anything is trained.

        Raises:
            SettingsError: its `config.pbtxt` does not fit; it says what to do.
        """
        VersionWriter(self.repository, self.schema, self.settings).check_config()

    def probe(self) -> None:
        """Let each Triton load a small graph, as it is to load versions: before hours go into one.

        Finds that a Triton sees another folder, may not read what is written there, does not take
        commands, or is older than the exporter.

        Raises:
            ServerUnavailableError: none answers for so long.
            ServerError: one does not serve the graph; it says what to look at.
            SettingsError: the repository cannot be written.
            RepositoryLockedError: another process publishes to it.
        """
        with self.repository.lock(), self.repository.probe_folder() as folder:
            write_probe(folder)
            try:
                self._retrying(ServerUnavailableError)(self.loaded.probe, folder)
            except ServerUnavailableError:
                raise
            except ServerError as error:
                raise ServerError(
                    f"{error}: it would refuse what is trained, too: start it with "
                    f"--model-control-mode=explicit over {self.repository.folder}, and let it read "
                    f"what is written there; it has to know ONNX opset {OPSET}"
                ) from error

    @contextmanager
    def stage(self, trained: TrainedModel, lineage: Lineage = FIRST) -> Iterator[StagedVersion]:
        """The next version, written in staging; what is not committed in the block is removed.

        Whether its graph answers as the model does is for whoever commits it to see
        (`trainer.gate`). Nobody else publishes to the repository meanwhile. One at a time.

        Raises:
            RepositoryLockedError: another process publishes to it.
            SettingsError: the repository is of other features.
            DataError: it cannot be written; nothing of it is to be seen.
            ExportError: weights are no numbers.
        """
        writer = VersionWriter(self.repository, self.schema, self.settings)
        with self.repository.lock(), writer.stage(trained, lineage, self.next_number()) as staged:
            yield staged

    def next_number(self) -> int:
        """The number of the next version: none ever had it, though all it had may be removed."""
        routed = _routed_numbers(self.rollouts.newest)
        return max(self.repository.last_number(), *routed, 0) + 1

    def write_version(
        self, trained: TrainedModel, extras: WriteExtras | None = None
    ) -> ModelVersion:
        """Commit the next version, its graph checked, without a verdict: see `stage`.

        Args:
            extras: writes what the version has besides, once its graph was checked.

        Raises:
            ExportError: the graph does not answer as the model does, too.
        """
        with self.stage(trained) as staged:
            graph = ScoringGraph(trained.model).eval()
            check_graph(graph, self.schema, staged.folder / GRAPH)
            if extras:
                staged.write_extras(extras)
            return staged.commit()

    def publish(self, trained: TrainedModel, extras: WriteExtras | None = None) -> ModelVersion:
        """Bring a model live for everyone; the version before it stays loaded.

        Args:
            extras: see `write_version`.

        Raises:
            RepositoryLockedError: another process publishes to the repository.
            DataError: the version cannot be written.
            ExportError: the graph does not answer as the model does.
            ServerError: Triton or Kafka does not answer, or Triton answers otherwise.
        """
        with self.repository.lock():
            version = self.write_version(trained, extras)
            self.go_live(version)
        return version

    def go_live(self, version: ModelVersion, release: ReleaseVersion | None = None) -> bool:
        """Load a version, send it traffic, and remove what is no longer needed.

        Args:
            release: sends it traffic; by default everyone's (`announce`).

        Returns:
            Whether it is live, not only tried out.

        Raises:
            RolloutRejectedError: it gets no traffic; it is kept aside.
            ServerUnavailableError: no Triton answers for so long; `recover` goes on from there.
            ServerError: Kafka does not, likewise; or a Triton cannot load the version, or answers
                otherwise than the graph: then it is kept aside.
        """
        with self.repository.lock():
            try:
                self._retrying(ServerUnavailableError)(self.load_and_verify, version)
            except ServerUnavailableError:
                raise
            except ServerError as error:
                raise ServerError(f"{error}{self._keep_aside(version)}") from error
            if release:
                # Should this process die now, its command may be carried out all the same.
                self.repository.reserve(version)
            try:
                is_live = self._retrying(ServerError)(release or self.announce, version)
            except RolloutRejectedError as error:
                # The answer to a command may be lost, and the command sent again be refused.
                if not self._is_routed(version):
                    raise RolloutRejectedError(f"{error}{self._keep_aside(version)}") from error
                is_live = self.live_version() == version.number
            self.repository.mark_announced(version)
            log.info("version_released", version=version.number)
            try:
                self.retire()
            except (ServerError, DataError, OSError) as error:
                # It has traffic; the next one that goes live tidies up.
                log.warning("versions_not_retired", reason=str(error))
        return is_live

    def publish_kept(
        self, number: int | None, release: ReleaseVersion | None = None
    ) -> tuple[ModelVersion, bool]:
        """Bring a version live that was kept aside: the newest one where no number is given.

        Returns:
            The version, and whether it is live, not only tried out.

        Raises:
            RepositoryLockedError: another process publishes to the repository.
            DataError: there is no such version, or it is damaged.
            RolloutRejectedError, ServerError: as `go_live`.
        """
        with self.repository.lock():
            version = self.repository.put_back(number)
            return version, self.go_live(version, release)

    def load_and_verify(self, version: ModelVersion) -> None:
        """Load a version beside those that are up, and ask it once, on each Triton.

        One that is away, where another one is not, loads what takes traffic once it is back.

        Raises:
            ServerUnavailableError: no Triton answers.
            ServerError: one cannot load it, or it answers otherwise than ONNX Runtime does here.
        """
        with self.repository.lock():
            self.loaded.load_and_verify(version, _routed_numbers(self.rollouts.newest))

    def announce(self, version: ModelVersion) -> bool:
        """Say on `rollouts` that everyone gets this version; true, since it is live then.

        Raises:
            ServerError: Kafka does not take it.
        """
        routed = RoutedVersion(
            version=version.number, variant=Variant.STABLE, share=1.0, address=version.address
        )
        self.rollouts.refresh()
        rollout = Rollout(
            model=MODEL_NAME,
            versions=[routed],
            time=int(time.time() * 1000),
            revision=self.rollouts.reader.revision + 1,
        )
        write_rollout_message(self._kafka, MODEL_NAME, rollout, f"version {version.number}")
        if self.rollouts.refresh() != rollout:
            raise ServerError(f"version {version.number}: another rollout was written meanwhile")
        return True

    def live_version(self) -> int | None:
        """The number of the version that people get, None where none was announced.

        Raises:
            ServerError: Kafka does not answer.
        """
        rollout = self.rollouts.refresh()
        return stable_version(rollout) if rollout else None

    def undecided_rollout(self) -> str:
        """The id of the rollout that has no verdict yet; "" where none is under way.

        Raises:
            ServerError: Kafka does not answer.
        """
        rollout = self.rollouts.refresh()
        return rollout.rollout_id if rollout and rollout.phase.is_active else ""

    def recover(self, release: ReleaseVersion | None = None) -> ModelVersion | None:
        """Go on from wherever the last trainer ended, and give the version that is live then.

        The newest version that was committed, but neither announced nor overtaken by another
        rollout, goes live if it is whole. Others that were not announced are removed. The live
        version is loaded.

        Args:
            release: as of `go_live`.

        Returns:
            None where no version was announced, or the live one is not in this repository.

        Raises:
            RepositoryLockedError: another process publishes to the repository.
            ServerError: Triton or Kafka does not answer.
        """
        with self.repository.lock():
            rollout = self._retrying(ServerError)(self.rollouts.refresh)
            left = list(map(self.repository.version, self.repository.list_unannounced()))
            pending = next((one for one in reversed(left) if _is_pending(one, rollout)), None)
            for version in left:
                if version != pending:
                    self._settle(version, rollout)
            if pending:
                log.info("publishing_goes_on", version=pending.number)
                try:
                    self.go_live(pending, release)
                except (ServerError, RolloutRejectedError) as error:
                    if pending.folder.is_dir():
                        raise
                    log.warning("version_not_taken", version=pending.number, reason=str(error))
                rollout = self.rollouts.refresh()
            live = self.repository.version(stable_version(rollout)) if rollout else None
            if rollout is None or live is None or not live.folder.is_dir():
                return None
            self._ensure_loaded(live)
            for number in _routed_numbers(rollout) - {live.number}:
                self._ensure_tried(self.repository.version(number))
            return live

    def retire(self) -> None:
        """Leave loaded the live version, the one before it, and what else takes traffic.

        Then remove old ones from the disk, but never: what takes traffic, what is loaded, and what
        the live version was trained from.

        Raises:
            ServerError: Triton or Kafka does not answer.
            DataError: the live version cannot be read.
        """
        with self.repository.lock():
            rollout = self.rollouts.refresh()
            if rollout is None:
                return
            live, numbers = stable_version(rollout), self.repository.version_numbers()
            parent = checkpoint.read_manifest(self.repository.version(live).folder).parent
            # What somebody is about to try out may have traffic in a moment.
            wanted = _routed_numbers(rollout) | set(self.repository.list_reserved())
            kept = {*wanted, parent, *self.repository.list_unannounced()}
            kept |= self.loaded.narrow(live, wanted)
            old = [number for number in numbers if number not in kept]
            for number in old[: max(0, len(numbers) - self.settings.keep_versions)]:
                if self.repository.remove(self.repository.version(number)):
                    log.info("version_removed", version=number)

    def _retrying(self, error: type[Exception]) -> Retrying:
        """Calls again for as long as the settings wait, while it fails with this error."""
        return retrying(self.settings.publish_retry_s, error)

    def _settle(self, version: ModelVersion, rollout: Rollout | None) -> None:
        """See to a version that is not to go live: it already has, or is removed."""
        if version.number in _routed_numbers(rollout):
            self.repository.mark_announced(version)
            return
        self._retrying(ServerUnavailableError)(self.loaded.unload, version)
        if self.repository.remove(version):
            log.warning("version_removed", version=version.number)

    def _keep_aside(self, version: ModelVersion) -> str:
        """Take a version that gets no traffic out of the Tritons; how it is published later."""
        if self._is_routed(version):
            self.repository.mark_announced(version)
            return ""
        self._retrying(ServerUnavailableError)(self.loaded.unload, version)
        self.repository.put_aside(version)
        log.warning("version_kept_aside", version=version.number)
        return (
            f": version {version.number} is kept aside: once that is mended: "
            f"headwater publish {version.number}"
        )

    def _is_routed(self, version: ModelVersion) -> bool:
        rollout = self._retrying(ServerError)(self.rollouts.refresh)
        return version.number in _routed_numbers(rollout)

    def _ensure_loaded(self, version: ModelVersion) -> None:
        """Load a version that takes traffic where a Triton has forgotten it."""
        try:
            self._retrying(ServerUnavailableError)(self._load_if_missing, version)
        except DataError as error:
            # Who goes on from it is told then; a new version is a way out of this.
            log.warning("version_damaged", version=version.number, reason=str(error))

    def _ensure_tried(self, version: ModelVersion) -> None:
        """The same for one on trial, which may fail: that is for the trial to find."""
        try:
            self._ensure_loaded(version)
        except ServerError as error:
            log.warning("version_not_loaded", version=version.number, reason=str(error))

    def _load_if_missing(self, version: ModelVersion) -> None:
        if not self.loaded.is_ready(version):
            checkpoint.verify(version.folder)
            self.load_and_verify(version)


def stable_version(rollout: Rollout) -> int:
    """The version that a rollout relies on; others have a share to be tried."""
    chosen = max(rollout.versions, key=lambda one: (one.variant == Variant.STABLE, one.share))
    return chosen.version


def _routed_numbers(rollout: Rollout | None) -> set[int]:
    """The versions that take traffic."""
    return {routed.version for routed in rollout.versions} if rollout else set()


def _is_pending(version: ModelVersion, rollout: Rollout | None) -> bool:
    """Whether a version that was committed still is to go live."""
    try:
        manifest = checkpoint.verify(version.folder)
    except DataError as error:
        log.warning("version_damaged", version=version.number, reason=str(error))
        return False
    # A rollout of after it was made, be it a return to an older one, is not to be undone.
    return rollout is None or rollout.time < manifest.created_ms
