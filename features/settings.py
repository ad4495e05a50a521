"""Settings of what every part shares: Kafka, the feature store, the features themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

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
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: str | None = Field(None, description="PEM file of the authority to trust")
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 1

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
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False
    tls_ca_file: str | None = None
    cluster: bool = False
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


class FeatureSettings(Section):
    """What a row holds. Changing these changes the rows: start from an empty store."""

    history_length: Annotated[int, Field(ge=1, le=1024)] = 64
    user_half_lives_ms: HalfLives = (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
    category_half_lives_ms: HalfLives = (DAY_MS, 30 * DAY_MS)
    item_half_lives_ms: HalfLives = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
    click_weight: Annotated[float, Field(ge=0)] = 1.0
    purchase_weight: Annotated[float, Field(ge=0)] = 3.0
    remembered_events: Annotated[int, Field(ge=0, le=4096)] = Field(
        128, description="an event sent again within so many events of a person counts once"
    )
    taken_by: frozenset[Literal["click", "purchase"]] = Field(
        frozenset({"click", "purchase"}),
        description="what takes an item, so that it is not recommended again; empty: nothing",
    )
    taken_limit: Annotated[int, Field(ge=0)] = 4096
    category_limit: Annotated[int, Field(ge=0)] = 256
