"""Settings of what every part shares: Kafka, the feature store, the features themselves."""

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import headwater_client
from headwater_client.errors import SettingsError
from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE, OwnEventType
from headwater_client.kafka import describe_missing_login, join_address, parse_address
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from features.topics import EVENTS_KEPT_DAYS

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LEAST_KEY_CHARS = 32

# What programs write where they know no id. Not 0: logs whose people are counted have one.
NOBODY = (
    *("", "-", "-1", "null", "(null)", "nil", "none", "(none)", "nan", "n/a", "undefined"),
    # Hive, MySQL, workbooks, Go, JSON.
    *(
        "\\n",
        "#n/a",
        "#null!",
        "#value!",
        "#ref!",
        "#name?",
        "<null>",
        "[null]",
        "<nil>",
        "{}",
        "[]",
    ),
    *("unknown", "anonymous", "anon", "guest", "not set", "(not set)", "[object object]"),
    "00000000-0000-0000-0000-000000000000",
)

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
HalfOpenFraction = Annotated[float, Field(ge=0, lt=1)]
HalfLives = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]


def clean_text(given: str, *, is_secret: bool = False) -> str:
    """A value without the line breaks around it, which nobody sees: `echo` leaves one.

    Raises:
        ValueError: it is all blanks, it is no UTF-8, or a secret begins or ends in a line break.
    """
    if given.isspace():
        raise ValueError("is blank: give it a value, or leave it out")
    if "\0" in given or not _can_be_written(given):
        raise ValueError("is no text in UTF-8")
    bare = given.strip("\r\n")
    if is_secret and bare != given:
        raise ValueError("ends in a line break, as `echo` writes one: use `printf %s`")
    return bare


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Section(BaseModel):
    """A part of the settings: unknown names are refused, values never change after start.

    Attributes:
        RENAMED: names of the release before and what they are called now. They are accepted from
            the settings file, the environment and stored settings.
        REMOVED: names of settings that are gone, and what to do instead.
        KEEPS_BLANKS: whether blanks around a text, and a text of blanks, mean something.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    RENAMED: ClassVar[Mapping[str, str]] = {}
    REMOVED: ClassVar[Mapping[str, str]] = {}
    KEEPS_BLANKS: ClassVar[bool] = False

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, str) or cls.KEEPS_BLANKS:
            return given
        field = cls.model_fields[info.field_name or ""]
        return clean_text(given, is_secret="Secret" in str(field.annotation))

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, given: Any) -> Any:
        return cls.with_current_names(given) if isinstance(given, dict) else given

    @classmethod
    def with_current_names(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same values under the names of today.

        Raises:
            ValueError: a setting is given by its old and by its new name.
        """
        for old, new in cls.RENAMED.items():
            if old in given and new in given:
                raise ValueError(
                    f"{old}: is the old name of {new}, which is given too: remove {old}"
                )
        return {cls.RENAMED.get(name, name): value for name, value in given.items()}


def _readable_file(text: str) -> str:
    try:
        Path(text).open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    return text


ReadableFile = Annotated[str, AfterValidator(_readable_file)]


def _check_key(given: SecretStr) -> SecretStr:
    if (length := len(given.get_secret_value())) < LEAST_KEY_CHARS:
        raise ValueError(
            f"has {length} characters: take at least {LEAST_KEY_CHARS}, such as those of: "
            "openssl rand -hex 32"
        )
    return given


SigningKey = Annotated[SecretStr, AfterValidator(_check_key)]


class SecurityProtocol(StrEnum):
    """Kafka's own names for how a client connects."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """SASL mechanisms that both the worker and the clients speak."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"


class BrokerSettings(Section):
    """Where Kafka is. Without `bootstrap_servers` a local broker is started."""

    bootstrap_servers: str | None = Field(
        None, description="brokers to ask first, host:port,host:port; empty: a local broker"
    )
    security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT, description="how clients connect, by Kafka's own names"
    )
    sasl_mechanism: SaslMechanism = Field(
        SaslMechanism.SCRAM_SHA_512, description="how clients log in, where the protocol is SASL_*"
    )
    sasl_username: str | None = Field(
        None,
        description="login name, where the protocol is SASL_*; with OAUTHBEARER the client's id",
    )
    sasl_password: SecretStr | None = Field(
        None,
        description="password of sasl_username, or the client's secret; best given in the "
        "environment",
    )
    sasl_token_url: str | None = Field(
        None,
        description="token endpoint of OAuth 2.0 that gives sasl_username tokens for Kafka, by the "
        "grant client_credentials, where sasl_mechanism is OAUTHBEARER",
    )
    sasl_token_scope: str | None = Field(None, description="scope to ask for at sasl_token_url")
    sasl_token_file: ReadableFile | None = Field(
        None,
        description="file in which somebody else keeps a token for Kafka that is good for another "
        "two minutes at least, in place of sasl_token_url; it is read again once a minute",
    )
    ssl_ca_file: ReadableFile | None = Field(
        None, description="PEM file of the certificate authority to trust; empty: the system's"
    )
    ssl_certificate_file: ReadableFile | None = Field(
        None, description="PEM file of the own certificate, where Kafka asks for one (mutual TLS)"
    )
    ssl_key_file: ReadableFile | None = Field(
        None, description="PEM file of the private key of ssl_certificate_file"
    )
    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(
        4,
        description="partitions of each topic of events; no more workers than this can share the "
        "work; fixed once the topics are made",
    )
    replication_factor: Annotated[int, Field(ge=1, le=9)] | None = Field(
        None,
        description="on how many brokers each partition is kept, where topics are made; default: "
        "3, or as many as there are; 1: topics on one of several brokers are accepted",
    )
    create_topics: bool = Field(
        True, description="whether topics that are missing are made; else they are an error"
    )
    signing_key: SigningKey | None = Field(
        None,
        description="secret that messages on `rollouts` and `placements`, which say who gets which "
        "version and by which rules, are signed with (HMAC-SHA256): the same for workers, trainer, "
        "controllers and the API, at least 32 characters, not rollout.admin_token; empty: whoever "
        "may write to the topics decides",
    )

    @property
    def client_settings(self) -> headwater_client.KafkaSettings:
        """The part that clients need.

        Raises:
            SettingsError: no address is set.
        """
        if not self.bootstrap_servers:
            raise SettingsError(
                "kafka.bootstrap_servers: is not set, and no local Kafka was started"
            )
        password = self.sasl_password
        return headwater_client.KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            security_protocol=str(self.security_protocol),
            sasl_mechanism=str(self.sasl_mechanism),
            sasl_username=self.sasl_username,
            sasl_password=password.get_secret_value() if password else None,
            sasl_token_url=self.sasl_token_url,
            sasl_token_scope=self.sasl_token_scope,
            sasl_token_file=self.sasl_token_file,
            ssl_ca_file=self.ssl_ca_file,
            ssl_certificate_file=self.ssl_certificate_file,
            ssl_key_file=self.ssl_key_file,
        )

    @model_validator(mode="after")
    def _sasl_needs_a_login(self) -> "BrokerSettings":
        if missing := describe_missing_login(self):
            raise ValueError(missing)
        return self

    @model_validator(mode="after")
    def _brokers_are_addresses(self) -> "BrokerSettings":
        if self.bootstrap_servers:
            try:
                _ = self.client_settings
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return self


def _nodes(text: str) -> str:
    """The addresses of a store, each as host:port."""
    if "://" in text:
        raise ValueError(
            "write host:port without a scheme: the login goes into store.username and "
            "store.password, TLS into store.tls"
        )
    given = [join_address(*parse_address(each)) for each in text.split(",") if each.strip()]
    if not given:
        raise ValueError("write host:port, or host:port,host:port")
    return ",".join(given)


def _plain(user_id: str) -> str:
    return user_id.strip().casefold()


class WrongTime(StrEnum):
    """What becomes of an event whose time cannot be right."""

    REFUSE = "refuse"
    CLAMP = "clamp"


class OwnEventSettings(Section):
    """A type of event of one's own: a table `[[events.types]]`."""

    name: Annotated[str, Field(min_length=1)]
    topic: str = ""
    weight: Annotated[float, Field(ge=0)] = 1.0
    reward: Annotated[float, Field(ge=0)] = 0.0
    counts_as: str = ""
    negative: bool = False
    takes_item: bool = True

    @model_validator(mode="after")
    def _can_be(self) -> "OwnEventSettings":
        try:
            self.own_type.make_spec()
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def own_type(self) -> OwnEventType:
        """The type as the registry takes it."""
        return OwnEventType(**self.model_dump())


class EventSettings(Section):
    """Which events count, of those that keep to the contract; and types of one's own."""

    nobody: frozenset[Annotated[str, AfterValidator(_plain)]] = Field(
        frozenset(NOBODY),
        description="user_ids that stand for nobody in particular, in any spelling of upper and "
        "lower case: their events are refused, as all who are not known would be one person",
    )
    wrong_time: WrongTime = Field(
        WrongTime.REFUSE,
        description="what becomes of an event of a wrong clock: more than an hour ahead of its "
        "arrival, or older than max_age_s. refuse: it is a dead letter; clamp: it counts as of its "
        "arrival",
    )
    max_age_s: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="an event that arrives so many seconds after its time is of a clock that is "
        "behind; empty: an event may be of any age",
    )
    types: tuple[OwnEventSettings, ...] = Field(
        (),
        description="types of events of one's own, each with name, topic (default: the name), "
        "weight (1), reward in a rollout (0), counts_as (click), negative (false: it does not "
        "speak against its item) and takes_item (true); the same for every process",
    )

    def is_nobody(self, user_id: str) -> bool:
        """Whether an id stands for nobody."""
        return _plain(user_id) in self.nobody


class Durability(StrEnum):
    """What must be true of the store before offsets are committed."""

    AOF = "aof"
    ACKNOWLEDGED = "acknowledged"


class StoreSettings(Section):
    """The Feast online store (Redis or Valkey). Without `address` a local one is started."""

    address: Annotated[str, AfterValidator(_nodes)] | None = Field(
        None,
        description="host:port, or host:port,host:port of a cluster or of sentinels; empty: a "
        "local store",
    )
    username: str | None = Field(None, description="login name; empty: the default user")
    password: SecretStr | None = Field(
        None, description="password of the user; best given in the environment"
    )
    tls: bool = Field(False, description="connect by TLS")
    tls_ca_file: ReadableFile | None = Field(
        None, description="PEM file of the certificate authority to trust; empty: the system's"
    )
    tls_certificate_file: ReadableFile | None = Field(
        None,
        description="PEM file of the own certificate, where the store asks for one (mutual TLS)",
    )
    tls_key_file: ReadableFile | None = Field(
        None, description="PEM file of the private key of tls_certificate_file"
    )
    cluster: bool = Field(False, description="the store is a Redis Cluster")
    sentinel_service: str | None = Field(
        None,
        description="name under which Redis Sentinels watch the store: address then names the "
        "sentinels, which are asked for the primary; empty: address is the store's own",
    )
    sentinel_username: str | None = Field(
        None, description="login name at the sentinels; empty: the default user"
    )
    sentinel_password: SecretStr | None = Field(
        None, description="password at the sentinels, where they ask for one"
    )
    durability: Durability = Field(
        Durability.AOF,
        description="when offsets are committed. aof: once rows are on disk, by WAITAOF, or where "
        "a version answers that too early, by an fsync that was seen (Redis 7.2+, Valkey); "
        "acknowledged: once the server has answered",
    )

    expire_people_after_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        0,
        description="the row of a person of whom nothing is written for so many days goes by "
        "itself, with the attributes; 0: never. More than the 30 days that Kafka keeps events",
    )

    @field_validator("expire_people_after_days")
    @classmethod
    def _rows_outlive_the_log(cls, days: int) -> int:
        if 0 < days <= EVENTS_KEPT_DAYS:
            raise ValueError(
                f"{days}: Kafka keeps events for {EVENTS_KEPT_DAYS} days, and a row that goes "
                f"sooner would count them again: set 0, or more than {EVENTS_KEPT_DAYS}"
            )
        return days

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """Host and port of each server that `address` names."""
        return [parse_address(each) for each in (self.address or "").split(",") if each]

    @model_validator(mode="after")
    def _one_server_has_one_address(self) -> "StoreSettings":
        if self.cluster and self.sentinel_service:
            raise ValueError("cluster and sentinel_service are set: a cluster needs no sentinels")
        if self.sentinel_service and not self.address:
            raise ValueError("sentinel_service is set, and address is not: name the sentinels")
        if len(self.nodes) > 1 and not self.cluster and not self.sentinel_service:
            raise ValueError(
                f"address {self.address}: several addresses are those of a cluster or of "
                "sentinels: set cluster or sentinel_service, or name one"
            )
        return self

    @model_validator(mode="after")
    def _a_cluster_cannot_say(self) -> "StoreSettings":
        if self.cluster and self.durability is Durability.AOF:
            raise ValueError(
                "durability aof asks one server whether rows are on disk, and a cluster has many: "
                "set durability to acknowledged"
            )
        return self


def _event_type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(f"no such event type: one of {', '.join(EVENT_TYPES)}")
    return name


def _nearest_to_seven_days(validated: dict[str, Any]) -> int:
    half_lives: tuple[int, ...] = validated["item_half_lives_ms"]
    return min(half_lives, key=lambda half_life: abs(math.log(half_life / (7 * DAY_MS))))


class FeatureSettings(Section):
    """What a row holds. Most changes here change the rows: start from an empty store."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "remembered_events": "dedup_window",
        "taken_by": "seen_by",
        "taken_limit": "seen_limit",
    }

    history_length: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="newest events that a person's row keeps, which the model can read"
    )
    user_half_lives_ms: HalfLives = Field(
        (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS),
        description="half-lives of a person's decayed counts, in milliseconds; a plain count is "
        "kept beside them",
    )
    category_half_lives_ms: HalfLives = Field(
        (DAY_MS, 30 * DAY_MS),
        description="half-lives of a person's decayed counts by category, in milliseconds",
    )
    item_half_lives_ms: HalfLives = Field(
        (DAY_MS, 7 * DAY_MS, 30 * DAY_MS),
        description="half-lives of an item's decayed counts, in milliseconds; a plain count is "
        "kept beside them",
    )
    trending_half_life_ms: Annotated[int, Field(gt=0)] = Field(
        default_factory=_nearest_to_seven_days,
        description="half-life by which trending items are ranked, in milliseconds: one of "
        "item_half_lives_ms; default: the one nearest to 7 days",
    )
    click_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="what a click adds to counts by category and to an item's trend"
    )
    purchase_weight: Annotated[float, Field(ge=0)] = Field(
        3.0, description="what a purchase adds to counts by category and to an item's trend"
    )
    dedup_window: Annotated[int, Field(ge=0, le=4096)] = Field(
        128,
        description="an event that is sent again within so many events of its person counts once",
    )
    seen_by: frozenset[Annotated[str, AfterValidator(_event_type)]] = Field(
        default_factory=lambda: frozenset(
            spec.name for spec in EVENT_TYPES.with_counters if spec.marks_seen
        ),
        description="types of events that mark an item as seen by their person, so that it is "
        "not recommended to them again; what counts as one of these does, too, and dislikes and "
        "hides always do; empty: all other items may be recommended again",
    )
    seen_limit: Annotated[int, Field(ge=0)] = Field(
        4096, description="seen items that a person's row keeps, at most"
    )
    item_event_limit: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="events of a type by which one person counts for an item's trend, of those "
        "that the person's row keeps: a bot's thousand clicks are then no trend; empty: all count. "
        "May be changed at any time, and counts from then on",
    )
    category_limit: Annotated[int, Field(ge=0)] = Field(
        256, description="categories that a person's row keeps counts of, at most"
    )

    @model_validator(mode="after")
    def _trends_have_a_counter(self) -> "FeatureSettings":
        if self.trending_half_life_ms not in self.item_half_lives_ms:
            known = ", ".join(map(str, self.item_half_lives_ms))
            raise ValueError(
                f"trending_half_life_ms is {self.trending_half_life_ms}, which is none of "
                f"item_half_lives_ms: set it to one of {known}"
            )
        return self

    def weights(self) -> dict[int, float]:
        """What one event of each type adds to popularity and categories, by the type's code."""
        named = {CLICK.name: self.click_weight, PURCHASE.name: self.purchase_weight}
        added = {
            spec.name: named.get(spec.name, spec.weight) * (not spec.negative)
            for spec in EVENT_TYPES.values()
        }
        return {
            spec.code: -added[spec.takes_back] if spec.takes_back else added[spec.name]
            for spec in EVENT_TYPES.values()
        }

    def stored_values(self) -> dict[str, Any]:
        """What stores are marked with, as JSON: all that changes rows, by names that stay."""
        values = self.model_dump(mode="json", exclude={"trending_half_life_ms", "item_event_limit"})
        values["seen_by"] = sorted(self.seen_by)
        return {_STORED_NAMES.get(name, name): value for name, value in values.items()}


_STORED_NAMES = {
    "dedup_window": "remembered_events",
    "seen_by": "taken_by",
    "seen_limit": "taken_limit",
}
