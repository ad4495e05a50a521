"""Settings of what every part shares: Kafka, the feature store, the features themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


HalfLives = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings: unknown names are refused, values never change after start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class KafkaSettings(Section):
    """Where Kafka is. Without `bootstrap_servers` a local broker is started."""

    bootstrap_servers: str | None = Field(None, description="host:port,host:port; empty: local")
    security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT,
        description="how clients connect: PLAINTEXT, SSL (encrypted), SASL_PLAINTEXT (a login), "
        "SASL_SSL (both)",
    )
    sasl_mechanism: SaslMechanism = Field(
        SaslMechanism.SCRAM_SHA_512, description="how a login is proved, where there is one"
    )
    sasl_username: str | None = Field(None, description="name of the login, for SASL")
    sasl_password: SecretStr | None = Field(None, description="password of the login, for SASL")
    ssl_ca_file: str | None = Field(None, description="PEM file of the authority to trust")
    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(
        4, description="partitions of each topic of events; fixed once the topics are made"
    )
    replication_factor: Annotated[int, Field(ge=1, le=9)] = Field(
        1, description="on how many brokers each partition is kept, where topics are made"
    )

    @model_validator(mode="after")
    def _sasl_needs_a_login(self) -> KafkaSettings:
        uses_sasl = self.security_protocol.startswith("SASL")
        if uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password"
            )
        return self


class Durability(StrEnum):
    """What must be true of the store before offsets are committed."""

    AOF = "aof"
    ACKNOWLEDGED = "acknowledged"


class StoreSettings(Section):
    """The Feast online store (Redis or Valkey). Without `address` a local one is started."""

    address: str | None = Field(None, description="host:port, or host:port,host:port of a cluster")
    username: str | None = Field(None, description="name of the login; empty: none")
    password: SecretStr | None = Field(None, description="password of the login; empty: none")
    tls: bool = Field(False, description="encrypt the connection")
    tls_ca_file: str | None = Field(None, description="PEM file of the authority to trust")
    cluster: bool = Field(False, description="whether the address is that of a Redis cluster")
    durability: Durability = Field(
        Durability.AOF,
        description="aof: commit offsets once WAITAOF says that rows are on disk (Redis 7.2+); "
        "acknowledged: once the server has answered",
    )

    @model_validator(mode="after")
    def _a_cluster_cannot_say(self) -> StoreSettings:
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


class FeatureSettings(Section):
    """What a row holds. Most changes here change the rows: start from an empty store."""

    history_length: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="how many of a person's newest events a row holds, and the model reads"
    )
    user_half_lives_ms: HalfLives = Field(
        (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS),
        description="half-lives of a person's counters, in milliseconds",
    )
    category_half_lives_ms: HalfLives = Field(
        (DAY_MS, 30 * DAY_MS),
        description="half-lives of a person's counters by category, in milliseconds",
    )
    item_half_lives_ms: HalfLives = Field(
        (DAY_MS, 7 * DAY_MS, 30 * DAY_MS),
        description="half-lives of an item's popularity, in milliseconds",
    )
    trending_half_life_ms: Annotated[int, Field(gt=0)] = Field(
        7 * DAY_MS,
        description="the half-life by which trending items are ranked, in milliseconds: one of "
        "item_half_lives_ms",
    )
    click_weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="what a click adds to an item's popularity and a person's categories"
    )
    purchase_weight: Annotated[float, Field(ge=0)] = Field(
        3.0, description="what a purchase adds to an item's popularity and a person's categories"
    )
    remembered_events: Annotated[int, Field(ge=0, le=4096)] = Field(
        128, description="an event sent again within so many events of a person counts once"
    )
    taken_by: frozenset[Annotated[str, AfterValidator(_event_type)]] = Field(
        default_factory=lambda: frozenset(
            spec.name for spec in EVENT_TYPES.values() if spec.marks_seen
        ),
        description="types of event after which an item is not recommended to its person again; "
        "empty: none",
    )
    taken_limit: Annotated[int, Field(ge=0)] = Field(
        4096, description="for how many items a person's row knows that they are not to come again"
    )
    category_limit: Annotated[int, Field(ge=0)] = Field(
        256, description="for how many categories a person's row has counters"
    )

    @model_validator(mode="after")
    def _trends_have_a_counter(self) -> FeatureSettings:
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
        return {spec.code: named.get(spec.name, spec.weight) for spec in EVENT_TYPES.values()}
