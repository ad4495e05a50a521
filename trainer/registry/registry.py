"""From a trained model to one that answers: version folder, Triton, announcement.

A version appears whole or not at all: it is written and checked in staging, renamed, loaded, asked
once, and only then announced. What a dead trainer left is finished or removed: docs/decisions/0013.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from headwater_client.errors import DataError, HeadwaterError, ServerError
from tenacity import Retrying
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from features.inputs import MODEL_NAME, model_inputs, model_outputs
from features.rollout_messages import Rollout, RoutedVersion, Variant
from features.rollouts import RolloutView, write_rollout_message
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from trainer.export import Arrays, ScoringGraph, answers, open_session, sample_inputs
from trainer.export.onnx import check_graph, differences, with_versions
from trainer.network import TrainedModel
from trainer.registry import checkpoint, repository
from trainer.registry.checkpoint import FIRST, Lineage
from trainer.retrying import retrying
from trainer.settings import TrainerSettings

LOAD_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 20.0
POLL_S = 0.05
CHECKED_BATCH = 7
AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


class ServerUnavailableError(ServerError):
    """Triton does not answer: it may in a moment."""


@dataclass(frozen=True)
class ModelServer:
    """Where Triton is; `url` is host:port of its gRPC side."""

    url: str
    tls: bool = False
    tls_ca_file: str | None = None

    @contextmanager
    def connect(self) -> "Iterator[ModelServerClient]":
        """A connection, closed at the end.

        Raises:
            ServerUnavailableError: in the block, when Triton does not answer.
            ServerError: in the block, when Triton refuses what it is asked.
        """
        client = InferenceServerClient(self.url, ssl=self.tls, root_certificates=self.tls_ca_file)
        try:
            yield ModelServerClient(client)
        except InferenceServerException as error:
            # What a Python backend adds, where in it, helps nobody.
            reason = " ".join(str(error).split()).partition(" At: /")[0]
            kind = ServerUnavailableError if error.status() in AWAY else ServerError
            raise kind(f"Triton at {self.url}: {reason}") from error
        finally:
            client.close()


class ModelServerClient:
    """A connected Triton."""

    def __init__(self, client: InferenceServerClient) -> None:
        self._client = client

    def is_ready(self, version: int) -> bool:
        """Whether a version can be asked."""
        ready: bool = self._client.is_model_ready(
            MODEL_NAME, str(version), client_timeout=ASK_TIMEOUT_S
        )
        return ready

    def list_ready(self, versions: Iterable[int]) -> list[int]:
        """Those of these versions that can be asked."""
        return [version for version in versions if self.is_ready(version)]

    def load(self, config: str, versions: Sequence[int]) -> None:
        """Serve exactly these versions, and wait until they are ready.

        Args:
            config: the text of `config.pbtxt`.

        Raises:
            ServerUnavailableError: one is not ready in time.
        """
        if not versions:
            self._client.unload_model(MODEL_NAME, client_timeout=LOAD_TIMEOUT_S)
            return
        self._client.load_model(
            MODEL_NAME, config=with_versions(config, versions), client_timeout=LOAD_TIMEOUT_S
        )
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while missing := [version for version in versions if not self.is_ready(version)]:
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"Triton: versions {missing} of {MODEL_NAME} are not ready"
                )
            time.sleep(POLL_S)

    def check_answer(self, version: int, graph: Path, items: int, schema: FeatureSchema) -> None:
        """Ask once, which also warms the version, and compare with ONNX Runtime here.

        Args:
            items: how many items the model has.

        Raises:
            ServerError: the answers differ.
        """
        feeds = sample_inputs(items, schema, CHECKED_BATCH)
        expected = answers(open_session(graph), feeds)
        found = self.ask(version, feeds, schema)
        for difference in differences(expected, found):
            raise ServerError(
                f"Triton: version {version} of {MODEL_NAME} answers wrongly: {difference}"
            )

    def ask(self, version: int, feeds: Arrays, schema: FeatureSchema) -> Arrays:
        """What a version answers, by name."""
        inputs = []
        for tensor in model_inputs(schema):
            array = feeds[tensor.name]
            sent = InferInput(tensor.name, list(array.shape), tensor.triton_type)
            inputs.append(sent.set_data_from_numpy(array))
        result = self._client.infer(
            MODEL_NAME, inputs, model_version=str(version), client_timeout=ASK_TIMEOUT_S
        )
        return {tensor.name: result.as_numpy(tensor.name) for tensor in model_outputs(schema)}


log = structlog.get_logger()

# Sends traffic to a version that is loaded; whether all of it, so that the version is live.
ReleaseVersion = Callable[[repository.ModelVersion], bool]


class RolloutRejectedError(HeadwaterError):
    """A version that was to be tried out gets no traffic."""


class ModelRegistry:
    """Makes versions of a model and brings them live: the only writer of its repository.

    Args:
        folder: the model repository that Triton reads.
        server: the Triton that versions are loaded into.
        kafka: where versions are announced.
        schema: of the rows that versions read.
        settings: how long it waits for servers and disks, and how many versions it keeps.

    Attributes:
        repository: what is on disk.
        rollouts: what was announced.
    """

    def __init__(
        self,
        folder: Path,
        server: ModelServer,
        kafka: BrokerSettings,
        schema: FeatureSchema,
        settings: TrainerSettings,
    ) -> None:
        self.repository = repository.ModelRepository(folder)
        self.rollouts = RolloutView(kafka, MODEL_NAME)
        self.server = server
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
        repository.VersionWriter(self.repository, self.schema, self.settings).check_config()

    @contextmanager
    def stage(
        self, trained: TrainedModel, lineage: Lineage = FIRST
    ) -> Iterator[repository.StagedVersion]:
        """The next version, written in staging; what is not committed in the block is removed.

        Whether its graph answers as the model does is for whoever commits it to see
        (`trainer.gate`). Nobody else publishes to the repository meanwhile. One at a time.

        Raises:
            RepositoryLockedError: another process publishes to it.
            SettingsError: the repository is of other features.
            DataError: it cannot be written; nothing of it is to be seen.
            ExportError: weights are no numbers.
        """
        writer = repository.VersionWriter(self.repository, self.schema, self.settings)
        with self.repository.lock(), writer.stage(trained, lineage) as staged:
            yield staged

    def write_version(
        self, trained: TrainedModel, extras: repository.WriteExtras | None = None
    ) -> repository.ModelVersion:
        """Commit the next version, its graph checked, without a verdict: see `stage`.

        Args:
            extras: writes what the version has besides, once its graph was checked.

        Raises:
            ExportError: the graph does not answer as the model does, too.
        """
        with self.stage(trained) as staged:
            graph = ScoringGraph(trained.model).eval()
            check_graph(graph, self.schema, staged.folder / repository.GRAPH)
            if extras:
                staged.write_extras(extras)
            return staged.commit()

    def publish(
        self, trained: TrainedModel, extras: repository.WriteExtras | None = None
    ) -> repository.ModelVersion:
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

    def go_live(
        self, version: repository.ModelVersion, release: ReleaseVersion | None = None
    ) -> bool:
        """Load a version, send it traffic, and remove what is no longer needed.

        Args:
            release: sends it traffic; by default everyone's (`announce`).

        Returns:
            Whether it is live, not only tried out.

        Raises:
            RolloutRejectedError: it gets no traffic; it is removed.
            ServerUnavailableError: Triton does not answer for so long; `recover` goes on from
                there.
            ServerError: Kafka does not, likewise; or Triton cannot load the version, or answers
                otherwise than the graph: then it is removed.
        """
        with self.repository.lock():
            try:
                self._retrying(ServerUnavailableError)(self.load_and_verify, version)
            except ServerUnavailableError:
                raise
            except ServerError:
                self._discard(version)
                raise
            try:
                is_live = self._retrying(ServerError)(release or self.announce, version)
            except RolloutRejectedError:
                self._discard(version)
                raise
            self.repository.mark_announced(version)
            log.info("version_released", version=version.number)
            try:
                self.retire()
            except (ServerError, DataError, OSError) as error:
                # It has traffic; the next one that goes live tidies up.
                log.warning("versions_not_retired", reason=str(error))
        return is_live

    def load_and_verify(self, version: repository.ModelVersion) -> None:
        """Load a version beside those that are up, and ask it once.

        Raises:
            ServerUnavailableError: Triton does not answer.
            ServerError: Triton cannot load it, or it answers otherwise than ONNX Runtime does here.
        """
        items = checkpoint.read_manifest(version.folder).architecture.items
        with self.repository.lock(), self.server.connect() as triton:
            loaded = triton.list_ready(self.repository.version_numbers())
            self._load(triton, {*loaded, version.number})
            triton.check_answer(
                version.number, version.folder / repository.GRAPH, items, self.schema
            )

    def announce(self, version: repository.ModelVersion) -> bool:
        """Say on `rollouts` that everyone gets this version; true, since it is live then.

        Raises:
            ServerError: Kafka does not take it.
        """
        routed = RoutedVersion(
            version=version.number, variant=Variant.STABLE, share=1.0, address=version.address
        )
        rollout = Rollout(model=MODEL_NAME, versions=[routed], time=int(time.time() * 1000))
        write_rollout_message(self._kafka, MODEL_NAME, rollout, f"version {version.number}")
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

    def recover(self, release: ReleaseVersion | None = None) -> repository.ModelVersion | None:
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
                except RolloutRejectedError as error:
                    log.warning("version_not_taken", version=pending.number, reason=str(error))
                rollout = self.rollouts.refresh()
            live = self.repository.version(stable_version(rollout)) if rollout else None
            if live is None or not live.folder.is_dir():
                return None
            self._ensure_loaded(live)
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
            live = stable_version(rollout)
            routed = {version.version for version in rollout.versions}
            numbers = self.repository.version_numbers()
            parent = checkpoint.read_manifest(self.repository.version(live).folder).parent
            with self.server.connect() as triton:
                loaded = triton.list_ready(numbers)
                serving = _versions_to_serve(loaded, live, routed)
                if serving != loaded:
                    self._load(triton, serving)
            kept = {*serving, *routed, parent, *self.repository.list_unannounced()}
            old = [number for number in numbers if number not in kept]
            for number in old[: max(0, len(numbers) - self.settings.keep_versions)]:
                self.repository.remove(self.repository.version(number))
                log.info("version_removed", version=number)

    def _retrying(self, error: type[Exception]) -> Retrying:
        """Calls again for as long as the settings wait, while it fails with this error."""
        return retrying(self.settings.publish_retry_s, error)

    def _settle(self, version: repository.ModelVersion, rollout: Rollout | None) -> None:
        """See to a version that is not to go live: it already has, or is removed."""
        if rollout and version.number in {routed.version for routed in rollout.versions}:
            self.repository.mark_announced(version)
        else:
            self._discard(version)

    def _ensure_loaded(self, version: repository.ModelVersion) -> None:
        """Load the live version where Triton has forgotten it."""
        try:
            self._retrying(ServerUnavailableError)(self._load_if_missing, version)
        except DataError as error:
            # Who goes on from it is told then; a new version is a way out of this.
            log.warning("version_damaged", version=version.number, reason=str(error))

    def _load_if_missing(self, version: repository.ModelVersion) -> None:
        with self.server.connect() as triton:
            if triton.is_ready(version.number):
                return
        checkpoint.verify(version.folder)
        self.load_and_verify(version)

    def _discard(self, version: repository.ModelVersion) -> None:
        """Remove a version that takes no traffic: first from Triton, then from the disk."""
        self._retrying(ServerUnavailableError)(self._unload, version)
        self.repository.remove(version)
        log.warning("version_removed", version=version.number)

    def _unload(self, version: repository.ModelVersion) -> None:
        with self.server.connect() as triton:
            loaded = triton.list_ready(self.repository.version_numbers())
            if version.number in loaded:
                self._load(triton, set(loaded) - {version.number})

    def _load(self, triton: ModelServerClient, versions: Collection[int]) -> None:
        triton.load((self.repository.model / repository.CONFIG).read_text(), sorted(versions))


def stable_version(rollout: Rollout) -> int:
    """The version that a rollout relies on; others have a share to be tried."""
    chosen = max(rollout.versions, key=lambda one: (one.variant == Variant.STABLE, one.share))
    return chosen.version


def _versions_to_serve(loaded: Sequence[int], live: int, routed: Collection[int]) -> list[int]:
    """Of the versions that are loaded those that stay so.

    >>> _versions_to_serve([1, 2, 3, 4], live=3, routed={3})
    [2, 3, 4]
    """
    before = max((number for number in loaded if number < live), default=live)
    return [number for number in loaded if number >= before or number in routed]


def _is_pending(version: repository.ModelVersion, rollout: Rollout | None) -> bool:
    """Whether a version that was committed still is to go live."""
    try:
        manifest = checkpoint.verify(version.folder)
    except DataError as error:
        log.warning("version_damaged", version=version.number, reason=str(error))
        return False
    # A rollout of after it was made, be it a return to an older one, is not to be undone.
    return rollout is None or rollout.time < manifest.created_ms
