"""The settings of the whole product: a file, overridden by the environment, checked at start.

`kafka.partitions` in `headwater.toml` is `HEADWATER_KAFKA__PARTITIONS` in the environment.
"""

import codecs
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pydantic_settings
from headwater_client.documents import DocumentError, read_toml
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from deploy import settings_text
from deploy.monitoring.settings import MonitoringSettings
from deploy.optimize.settings import OptimizeSettings
from deploy.rollout.settings import RolloutSettings
from deploy.settings_secrets import read_named_secrets, read_secret_variables
from deploy.settings_text import DELIMITER, PREFIX
from features.settings import (
    LEAST_KEY_CHARS,
    BrokerSettings,
    EventSettings,
    FeatureSettings,
    OpenFraction,
    Section,
    SecurityProtocol,
    StoreSettings,
    clean_text,
)
from stream.settings import ApiSettings, OidcSettings, TritonSettings, WorkerConfig, WorkerSettings
from trainer.settings import FineTuneSettings, GateSettings, TrainerSettings
from trainer.windows.settings import WindowSettings

CONFIG_VARIABLE = "HEADWATER_CONFIG"
CONFIG_FILE = "headwater.toml"


def absolute(path: Path) -> Path:
    """The path from the root: servers and workers run in other folders than the command.

    Raises:
        ValueError: it begins with the folder of a user that this system does not know.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error} Write the whole path, or set HOME") from error
    except FileNotFoundError as error:
        raise ValueError("the folder that this runs in is gone: change to another") from error


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/headwater`, or `~/.cache/headwater`; without a home here, `.cache`."""
    given = os.environ.get("XDG_CACHE_HOME")
    if not given and os.path.expanduser("~") in ("", "~", "/"):  # noqa: PTH111  (pathlib's raises)
        return absolute(Path(".cache/headwater"))
    return absolute(Path(given or "~/.cache") / "headwater")


def _clean_path(given: object) -> object:
    if given == "":
        raise ValueError("is blank: write a folder: . is the one that this runs in")
    return clean_text(given) if isinstance(given, str) else given


Folder = Annotated[
    Path, BeforeValidator(_clean_path), AfterValidator(absolute), Field(validate_default=True)
]
Port = Annotated[int, Field(ge=1, le=65_535)]


class LocalSettings(Section):
    """Where local servers keep their data, and the ports they take if these are free."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "triton_http_port": "the local Triton answers by gRPC only: remove it"
    }

    state_dir: Folder = Field(
        Path(".headwater"), description="folder of local servers' data, logs and process ids"
    )
    cache_dir: Folder = Field(
        default_factory=default_cache_dir,
        validate_default=True,
        description="folder of what is fetched once: data sets, Kafka's jars, language models; "
        "default: headwater in $XDG_CACHE_HOME, or in ~/.cache",
    )
    kafka_port: Port = Field(9092, description="port of the local Kafka; another if it is taken")
    kafka_controller_port: Port = Field(
        9093, description="port of the local Kafka's controller; another if it is taken"
    )
    store_port: Port = Field(6379, description="port of the local store; another if it is taken")
    triton_grpc_port: Port = Field(
        8001, description="gRPC port of the local Triton; another if it is taken"
    )
    triton_metrics_port: Port = Field(
        8002, description="metrics port of the local Triton; another if it is taken"
    )
    kafka_heap_mb: Annotated[int, Field(ge=128)] = Field(
        512, description="memory of the local Kafka's Java heap, in MB"
    )
    maven_url: str | None = Field(
        None, description="a Maven repository to fetch Kafka's jars from; empty: the public one"
    )
    start_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60, description="how long a local server may take to start, in seconds"
    )
    stop_timeout_s: Annotated[float, Field(gt=0)] = Field(
        20, description="how long a local server may take to stop, in seconds, before it is killed"
    )


class ConsoleSettings(Section):
    """The console: where it listens, and who may see what. Keys are those of `api.keys_file`."""

    address: str = Field(
        "127.0.0.1", description="network interface that it listens on; 0.0.0.0: all of them"
    )
    port: Port = Field(8090, description="port")
    secret: Annotated[SecretStr, Field(min_length=LEAST_KEY_CHARS)] | None = Field(
        None,
        description="signs sessions and masks people's ids, the same for all consoles; empty: a "
        "new one at each start, which ends all sessions",
    )
    session_s: Annotated[int, Field(ge=60, le=30 * 86_400)] = Field(
        8 * 3600, description="how long after its login a session ends, in seconds"
    )
    secure_cookies: bool = Field(
        False,
        description="browsers send the session by HTTPS only: for a console behind a proxy that "
        "speaks it",
    )
    logins_per_minute: Annotated[float, Field(gt=0, le=1000)] = Field(
        10, description="tries to log in that one address may make a minute"
    )
    mask_people: bool = Field(
        False,
        description="who has no key with the scope read-people sees a keyed hash in place of a "
        "person's id",
    )
    targets: tuple[Annotated[str, Field(pattern=r"^https?://\S+$")], ...] = Field(
        (),
        description="addresses of the metrics of workers, APIs, trainers and controllers, such as "
        "http://10.0.0.7:9188/metrics; empty: those that run on this machine, at the metrics_port "
        "of worker, trainer and rollout, and at api.port",
    )
    prometheus_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = Field(
        None,
        description="a Prometheus that reads these metrics, such as http://prometheus:9090: it is "
        "asked, and the processes are not; empty: the console reads them itself",
    )
    metrics_key: SecretStr | None = Field(
        None,
        description="sent as a bearer token to targets, or to the Prometheus: the API tells its "
        "metrics to keys only",
    )
    sample_every_s: Annotated[float, Field(ge=0.2, le=60)] = Field(
        2.0, description="how often figures are made anew while somebody looks, in seconds"
    )
    sample_events: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        20_000,
        description="newest events that the quality of data is told from, of all topics together",
    )
    sample_letters: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="newest dead letters that are looked at; of large ones fewer"
    )
    sender: str = Field(
        "",
        description="name in the context of events that says which app sent one: its clock is "
        "told by itself; empty: clocks are told by type of event alone",
    )
    sample_lists: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        20_000,
        description="newest lists, and as many interactions, that the fairness of what is shown is "
        "told from",
    )
    exposure_hours: Annotated[float, Field(gt=0, le=168)] = Field(
        24.0, description="how old these may be, in hours"
    )
    tail_quantile: OpenFraction = Field(
        0.8,
        description="the long tail is all of the catalogue but the fewest items that have this "
        "part of all that people took",
    )
    supplier: str = Field(
        "brand",
        description="attribute of items by which shares are told besides the category, such as "
        "brand or attributes.seller",
    )
    blocked_words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="words that no item that is shown should have in its title"
    )
    blocked_categories: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="categories of which no item should be shown"
    )
    group_attribute: str = Field(
        "",
        description="attribute of people by whose values it is told who sees what; empty: none",
    )
    least_group: Annotated[int, Field(ge=5)] = Field(
        20,
        description="people that a group has at least: smaller ones are told together, or not",
    )


def _default_model_repository(validated: dict[str, Any]) -> Path:
    local: LocalSettings = validated["local"]
    return local.state_dir / "model_repo"


class _Sources(pydantic_settings.BaseSettings):
    """Where settings are read from."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's signature)
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and that over the file."""
        environment = pydantic_settings.EnvSettingsSource(settings_cls)
        variables = settings_text.current_variables(settings_cls, environment.env_vars)
        environment.env_vars = read_secret_variables(settings_cls, variables)
        path = config_file()
        given = settings_text.current_sections(settings_cls, read_file(path) if path else {}, path)
        given = read_named_secrets(settings_cls, given, path)
        file = pydantic_settings.InitSettingsSource(settings_cls, given)
        return init_settings, environment, file


class _EventTypes(_Sources):
    """What has to be known before all else is read: other settings name types of events."""

    model_config = pydantic_settings.SettingsConfigDict(extra="ignore")

    events: EventSettings = EventSettings()


class Settings(_Sources):
    """Every setting of Headwater. Frozen: what `up` finds out comes back as a new object."""

    kafka: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    features: FeatureSettings = FeatureSettings()
    events: EventSettings = EventSettings()
    triton: TritonSettings = TritonSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    console: ConsoleSettings = ConsoleSettings()
    oidc: OidcSettings = OidcSettings()
    trainer: TrainerSettings = TrainerSettings()
    fine_tune: FineTuneSettings = FineTuneSettings()
    windows: WindowSettings = WindowSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    gate: GateSettings = GateSettings()
    rollout: RolloutSettings = RolloutSettings()
    optimize: OptimizeSettings = OptimizeSettings()
    local: LocalSettings = Field(default_factory=LocalSettings)
    model_repository: Folder = Field(
        default_factory=_default_model_repository,
        validate_default=True,
        description="folder of the versions of the model, which Triton serves; default: the folder "
        "model_repo in local.state_dir",
    )

    @property
    def optimised_repository(self) -> Path:
        """Where other forms of versions are, a model repository each: beside the versions' own."""
        return self.model_repository.with_name(f"{self.model_repository.name}-optimised")

    @property
    def worker_config(self) -> WorkerConfig:
        """What a worker needs of them, and whoever answers as one does."""
        return WorkerConfig(
            self.kafka, self.store, self.features, self.triton, self.worker, self.events
        )

    @property
    def windows_address(self) -> str:
        """Where windows of events are: by default in the folder of what is local."""
        return self.windows.address or str(self.local.state_dir / "windows")

    @model_validator(mode="after")
    def _local_servers_speak_plainly(self) -> "Settings":
        for address, stray in _stray_security(self):
            raise ValueError(
                f"{stray} is set, but {address} is not, and the local server does without: "
                f"set {address}, or unset {stray}"
            )
        return self


def _stray_security(settings: Settings) -> Iterator[tuple[str, str]]:
    """Pairs (address that is missing, security setting that makes no sense without it)."""
    kafka, store, triton = settings.kafka, settings.store, settings.triton
    if not kafka.bootstrap_servers and kafka.security_protocol != SecurityProtocol.PLAINTEXT:
        yield "kafka.bootstrap_servers", "kafka.security_protocol"
    if not store.address:
        names = [name for name in ("password", "tls", "cluster") if getattr(store, name)]
        yield from (("store.address", f"store.{name}") for name in names)
    if not triton.url:
        names = [name for name in ("tls", "control_key") if getattr(triton, name)]
        yield from (("triton.url", f"triton.{name}") for name in names)


def config_file() -> Path | None:
    """The settings file: `$HEADWATER_CONFIG`, else `headwater.toml` here, else none."""
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named or CONFIG_FILE)
    try:
        is_there = path.is_file()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if named and not is_there:
        raise SettingsError(f"{CONFIG_VARIABLE}={named}: no such file: correct or unset it")
    return path if is_there else None


def read_file(path: Path) -> dict[str, Any]:
    """What a settings file holds.

    Raises:
        SettingsError: it cannot be read, or is no TOML in UTF-8.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
            raise SettingsError(f"{path}: is UTF-16, or no text: save it as UTF-8")
        return read_toml(raw.decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}: is no UTF-8 in line {line}: save it as UTF-8") from error
    except DocumentError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error


def load_settings() -> Settings:
    """The effective settings, with the types of events that they name in `EVENT_TYPES`.

    Raises:
        SettingsError: one line per problem.
    """
    variables = {name: v for name, v in os.environ.items() if name != CONFIG_VARIABLE}
    problems = list(settings_text.unknown_variables(Settings, variables))
    try:
        EVENT_TYPES.set_own(each.own_type for each in _EventTypes().events.types)
        settings = Settings()
    except ValidationError as error:
        problems += settings_text.problems(Settings, error)
    except SettingsError as error:
        problems.append(str(error))
    except pydantic_settings.SettingsError as error:
        problems.append(settings_text.explain_json(error, variables))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings
