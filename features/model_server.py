"""The Tritons that answer with versions: what each has loaded, and that it keeps what is routed.

A Triton that starts again has forgotten what it had loaded. So whatever runs all along (workers,
controller, trainer) has a `Reconciler` for each of them: it looks every few seconds, and loads what
takes traffic and is not there. Several may look after one Triton: each only adds.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy.typing as npt
import structlog
from google.protobuf import json_format, text_format
from headwater_client.errors import ServerError
from prometheus_client import Gauge
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from features.inputs import MODEL_NAME, model_inputs, model_outputs
from features.rollout_messages import RoutedVersion, Variant
from features.schema import FeatureSchema, check_address, open_address

CONFIG = "config.pbtxt"
MAX_CONFIG_BYTES = 1024 * 1024
LOAD_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 20.0
# A look at a server that should answer at once: several of these fit between two of a reconciler.
LOOK_TIMEOUT_S = 2.0
POLL_S = 0.05
# Whoever loads at the same moment, and comes last, takes away what the other one added.
LOAD_AGAIN_S = 2.0
INTERVAL_S = 2.0
LONGEST_REST_S = 30.0
TOLD_EVERY_S = 60.0
STOP_S = 2.0
AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")
CONTROL_HEADER = "headwater-key"
# After a long outage gRPC would by itself try to connect only every two minutes.
CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# What Triton says with the status of a server that is away, though it will say so for ever.
REFUSALS = {
    "if polling is enabled": "start Triton with --model-control-mode=explicit",
    "protocol is restricted": "set triton.control_key to the key that Triton was started with",
}
MISSING = Gauge(
    "headwater_routed_versions_missing",
    "Versions that take traffic and that this Triton does not serve",
    ["url"],
)
log = structlog.get_logger()
T = TypeVar("T")
Arrays = Mapping[str, npt.NDArray[Any]]


class ServerUnavailableError(ServerError):
    """Triton does not answer: it may in a moment."""


@dataclass(frozen=True)
class ModelServer:
    """One Triton.

    Attributes:
        url: host:port of its gRPC side.
        control_key: what it asks for before it loads or unloads; "" where it asks for nothing.
    """

    url: str
    tls: bool = False
    tls_ca_file: str | None = None
    control_key: str = field(default="", repr=False)

    @contextmanager
    def connect(self) -> "Iterator[ModelServerClient]":
        """A connection, closed at the end.

        Raises:
            ServerUnavailableError: in the block, when Triton does not answer.
            ServerError: in the block, when Triton refuses what it is asked.
        """
        client = InferenceServerClient(
            self.url, ssl=self.tls, root_certificates=self.tls_ca_file, channel_args=CHANNEL
        )
        # Triton's `--grpc-restricted-protocol` puts this prefix before the name of its key.
        header = {f"triton-grpc-protocol-{CONTROL_HEADER}": self.control_key}
        try:
            yield ModelServerClient(client, header if self.control_key else {})
        except InferenceServerException as error:
            # What a Python backend adds, where in it, helps nobody.
            reason = " ".join(str(error).split()).partition(" At: /")[0]
            remedy = next((text for words, text in REFUSALS.items() if words in reason), "")
            away = error.status() in AWAY and not remedy
            kind = ServerUnavailableError if away else ServerError
            told = f"{reason}: {remedy}" if remedy else reason
            raise kind(f"Triton at {self.url}: {told}") from error
        finally:
            client.close()


class ModelServerClient:
    """A connected Triton; what loads and unloads carries its key."""

    def __init__(self, client: InferenceServerClient, control: dict[str, str]) -> None:
        self._client = client
        self._control = control

    def is_live(self) -> bool:
        """Whether it answers at all."""
        live: bool = self._client.is_server_live(client_timeout=LOOK_TIMEOUT_S)
        return live

    def is_ready(self, version: int, timeout_s: float = ASK_TIMEOUT_S) -> bool:
        """Whether a version can be asked."""
        ready: bool = self._client.is_model_ready(
            MODEL_NAME, str(version), client_timeout=timeout_s
        )
        return ready

    def list_ready(self, versions: Iterable[int], timeout_s: float = ASK_TIMEOUT_S) -> list[int]:
        """Those of these versions that can be asked."""
        return [version for version in versions if self.is_ready(version, timeout_s)]

    def list_loaded(self) -> list[int]:
        """All versions that are up, whoever loaded them, ascending."""
        index = self._client.get_model_repository_index(
            headers=self._control, client_timeout=ASK_TIMEOUT_S
        )
        up = (one for one in index.models if (one.name, one.state) == (MODEL_NAME, "READY"))
        return sorted(int(one.version) for one in up)

    def load(self, config: str, versions: Sequence[int]) -> None:
        """Serve exactly these versions, and wait until they are ready.

        Args:
            config: the text of `config.pbtxt`.

        Raises:
            ServerUnavailableError: one is not ready in time.
        """
        if not versions:
            self.unload_model(MODEL_NAME)
            return
        exact = with_versions(config, versions)
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        self.load_model(MODEL_NAME, exact)
        again = time.monotonic() + LOAD_AGAIN_S
        while missing := [version for version in versions if not self.is_ready(version)]:
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"Triton: versions {missing} of {MODEL_NAME} are not ready"
                )
            if time.monotonic() > again:
                self.load_model(MODEL_NAME, exact)
                again = time.monotonic() + LOAD_AGAIN_S
            time.sleep(POLL_S)

    def load_model(self, name: str, config: str | None = None) -> None:
        """Load a model of the repository, by another configuration than its file's if given."""
        self._client.load_model(
            name, headers=self._control, config=config, client_timeout=LOAD_TIMEOUT_S
        )

    def unload_model(self, name: str) -> None:
        """Unload all versions of a model."""
        self._client.unload_model(name, headers=self._control, client_timeout=LOAD_TIMEOUT_S)

    def infer(self, name: str, feeds: Arrays, version: str = "") -> Any:
        """What a model answers, as tritonclient has it; by default its newest version."""
        inputs = [
            InferInput(
                each, list(array.shape), np_to_triton_dtype(array.dtype)
            ).set_data_from_numpy(array)
            for each, array in feeds.items()
        ]
        return self._client.infer(name, inputs, model_version=version, client_timeout=ASK_TIMEOUT_S)

    def ask(self, version: int, feeds: Arrays, schema: FeatureSchema) -> dict[str, Any]:
        """What a version answers, an array by name."""
        sent = {tensor.name: feeds[tensor.name] for tensor in model_inputs(schema)}
        result = self.infer(MODEL_NAME, sent, str(version))
        return {tensor.name: result.as_numpy(tensor.name) for tensor in model_outputs(schema)}


def on_each(servers: Sequence[ModelServer], work: Callable[[ModelServerClient], T]) -> list[T]:
    """Do something on each Triton that answers; what came of it.

    One that is away, where another one is not, is told of and left out.

    Raises:
        ServerUnavailableError: none answers.
        ServerError: one refuses.
    """
    found, away = [], []
    for server in servers:
        try:
            with server.connect() as triton:
                found.append(work(triton))
        except ServerUnavailableError as error:
            away.append(error)
    if away and not found:
        raise away[0]
    for one in away:
        log.warning("triton_left_out", reason=str(one))
    return found


def with_versions(config: str, versions: Sequence[int]) -> str:
    """A `config.pbtxt` as the load call takes it (JSON), with exactly these versions served."""
    parsed = text_format.Parse(config, ModelConfig())
    parsed.version_policy.Clear()
    parsed.version_policy.specific.versions.extend(sorted(versions))
    return str(json_format.MessageToJson(parsed, preserving_proto_field_name=True))


def missing_versions(server: ModelServer, routed: Iterable[RoutedVersion]) -> list[RoutedVersion]:
    """Of what takes traffic that which a Triton does not serve, the stable version first.

    Raises:
        ServerUnavailableError: it does not answer.
    """
    first = sorted(routed, key=lambda one: one.variant != Variant.STABLE)
    # A baseline is the stable version again.
    wanted = list({one.version: one for one in first}.values())
    with server.connect() as triton:
        ready = triton.list_ready((one.version for one in wanted), LOOK_TIMEOUT_S)
    return [one for one in wanted if one.version not in ready]


def load_beside(server: ModelServer, version: RoutedVersion, allowed: Sequence[str] = ()) -> None:
    """Load a version that takes traffic; what else is up stays so.

    Args:
        allowed: where versions may lie: see `check_address`.

    Raises:
        SettingsError: it lies elsewhere.
        OSError: there is no `config.pbtxt` beside its folder.
        ServerUnavailableError: Triton does not answer.
        ServerError: Triton refuses it.
    """
    check_address(version.address, allowed)
    folder = version.address.rstrip("/").rpartition("/")[0]
    with open_address(f"{folder}/{CONFIG}") as file:
        config = file.read(MAX_CONFIG_BYTES).decode()
    with server.connect() as triton:
        triton.load(config, sorted({*triton.list_loaded(), version.version}))


class Reconciler:
    """Keeps what takes traffic loaded on one Triton.

    Args:
        routed: gives the versions that take traffic; what it raises is logged, and what it gave
            before counts on.
        allowed: where versions may lie: see `check_address`.
        clock: seconds, to rest by after a refusal.
    """

    def __init__(
        self,
        server: ModelServer,
        routed: Callable[[], Sequence[RoutedVersion]],
        allowed: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._allowed = allowed
        self._read_routed = routed
        self._clock = clock
        self._routed: Sequence[RoutedVersion] = ()
        self._rest_s = INTERVAL_S
        self._rests_until = self._told_until = clock()
        self._told = ""

    def run(self, stop: threading.Event) -> None:
        """Look every few seconds, until it is told to stop."""
        # Those that were started together do not all load at once.
        pause_s = random.uniform(0, INTERVAL_S)
        while not stop.wait(pause_s):
            self.reconcile()
            pause_s = INTERVAL_S

    def reconcile(self) -> list[int]:
        """Load what is missing; the versions that still are."""
        try:
            self._routed = self._read_routed()
        except Exception as error:  # noqa: BLE001 (told; what was routed before counts on)
            self._tell("routing_unreadable", error)
        missing = list(self._routed)
        try:
            missing = missing_versions(self._server, missing) if missing else []
            if self._clock() >= self._rests_until:
                missing = [one for one in missing if not self._load(one)]
                self._rest(self._rest_s if missing else 0.0)
        except Exception as error:  # noqa: BLE001 (told; who answers there may be no Triton)
            # Once it is back it is asked at once: what it refused it may take then.
            self._rest(0.0)
            self._tell("triton_away", error)
        MISSING.labels(self._server.url).set(len(missing))
        return sorted({one.version for one in missing})

    def _load(self, version: RoutedVersion) -> bool:
        try:
            load_beside(self._server, version, self._allowed)
        except ServerUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 (told; an address can fail in any way)
            self._tell("routed_version_refused", error)
            return False
        log.info("routed_version_loaded", url=self._server.url, version=version.version)
        return True

    def _rest(self, seconds: float) -> None:
        """Load nothing for so long, and for twice as long the next time."""
        self._rests_until = self._clock() + seconds
        self._rest_s = min(2 * seconds, LONGEST_REST_S) or INTERVAL_S

    def _tell(self, what: str, error: Exception) -> None:
        """Log it: at once where it is news, else once a minute."""
        told = f"{what}: {error}"
        if told != self._told or self._clock() >= self._told_until:
            self._told, self._told_until = told, self._clock() + TOLD_EVERY_S
            log.warning(what, url=self._server.url, reason=" ".join(str(error).split()))


@contextmanager
def keep_loaded(
    servers: Iterable[ModelServer],
    routed: Callable[[], Sequence[RoutedVersion]],
    allowed: Sequence[str] = (),
) -> Iterator[None]:
    """Run a `Reconciler` for each Triton, in threads of their own, for as long as the block."""
    stop, turn = threading.Event(), threading.Lock()

    def read() -> Sequence[RoutedVersion]:
        with turn:
            return routed()

    # Daemons: a load that takes minutes does not keep a process that was told to stop.
    threads = [
        threading.Thread(target=Reconciler(one, read, allowed).run, args=(stop,), daemon=True)
        for one in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(STOP_S)
