"""Settings of the fast loop: the model server that it calls, and the worker itself."""

from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Annotated, Any

from headwater_client.kafka import join_address, parse_address
from pydantic import Field, SecretStr, field_validator, model_validator

from features.settings import (
    BrokerSettings,
    EventSettings,
    FeatureSettings,
    ReadableFile,
    Section,
    StoreSettings,
)


class TritonSettings(Section):
    """Where Triton is. Without `url` a local server is started."""

    url: str | None = Field(
        None,
        description="gRPC address, host:port, or a list of them, each with a Triton of its own "
        "that serves all versions; empty: a local Triton",
    )
    control_key: SecretStr | None = Field(
        None,
        description="value of the key headwater-key, where Triton's --grpc-restricted-protocol "
        "asks for it before a version is loaded; a local Triton has one of its own",
    )
    tls: bool = Field(False, description="connect by TLS")
    tls_ca_file: ReadableFile | None = Field(
        None, description="PEM file of the certificate authority to trust; empty: the system's"
    )
    model: str = Field("temporal_llm", description="name of the model that is asked for scores")
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = Field(
        500,
        description="how long an inference call may take, in milliseconds, before the worker "
        "answers with popular items",
    )
    canary_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = Field(
        500,
        description="how long a call to a version on trial may take, in milliseconds, before the "
        "stable one answers; never more than timeout_ms",
    )

    @field_validator("url", mode="before")
    @classmethod
    def _join_list(cls, given: Any) -> Any:
        return ",".join(map(str, given)) if isinstance(given, list | tuple) else given

    @field_validator("url")
    @classmethod
    def _check_each(cls, url: str | None) -> str | None:
        each = [_join_triton(one) for one in (url or "").split(",") if one.strip()]
        if len(set(each)) < len(each):
            raise ValueError("an address stands twice: name each once")
        return ",".join(each) or None

    @property
    def urls(self) -> list[str]:
        """The address of each Triton."""
        return self.url.split(",") if self.url else []


_BY_DNS = "dns:///"
"""gRPC's own way to say that all addresses of a name are asked."""


def _join_triton(given: str) -> str:
    text = given.strip()
    try:
        address = join_address(*parse_address(text.removeprefix(_BY_DNS)))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    return f"{_BY_DNS}{address}" if text.startswith(_BY_DNS) else address


class WorkerSettings(Section):
    """How a worker collects, scores and answers events."""

    name: str = Field(
        default_factory=gethostname,
        min_length=1,
        description="name of this worker: unlike any other's, and the same after a restart; "
        "default: the host's name",
    )
    group: str = Field("headwater", min_length=1, description="Kafka consumer group")
    top_k: Annotated[int, Field(ge=1, le=100)] = Field(
        10, description="items of a recommendation, at most"
    )
    placement: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")] | None = Field(
        None,
        description="placement whose rules the lists on the topic recommendations follow; its "
        "filters get the context of the event that led to a list; empty: none",
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        128,
        description="events of a micro-batch, at most; a quiet stream does not wait for so many",
    )
    trending_items: Annotated[int, Field(ge=1, le=10_000)] = Field(
        512, description="most popular items that the list of each source partition keeps"
    )
    trending_candidates: Annotated[int, Field(ge=1, le=1000)] = Field(
        50, description="trending items that the model ranks with its own best"
    )
    trends_refresh_s: Annotated[float, Field(gt=0)] = Field(
        2.0, description="how old a worker's view of the trends may be, in seconds"
    )
    catalogue_refresh_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="how old a worker's view of an item's availability may be, in seconds"
    )
    fallback_items: Annotated[int, Field(ge=1)] = Field(
        200,
        description="popular items looked through at a time where no version fills a list",
    )
    answer_within_s: Annotated[float, Field(gt=0)] = Field(
        3600.0,
        description="an event that Kafka took longer ago than so many seconds changes the rows and "
        "is not answered: after an outage or a reset nobody waits for it",
    )
    commit_interval_s: Annotated[float, Field(gt=0)] = Field(
        1.0, description="seconds from one commit of offsets to the next"
    )
    model_addresses: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="addresses below which versions of the model may lie, such as "
        "s3://models/temporal_llm or /srv/model_repo: a routing message that names another one is "
        "not followed; empty: any local path, and nothing else",
    )
    rollout_lease_s: Annotated[float, Field(ge=30)] = Field(
        60.0,
        description="seconds without a sign of life of the controller after which a rollout is not "
        "shown any more, and everyone gets the stable version; controllers renew every 10 s",
    )
    row_cache: Annotated[int, Field(ge=0)] = Field(
        20_000,
        description="rows of people, and as many columns of items, that are cached; a write still "
        "checks that the stored row is the same",
    )
    session_timeout_s: Annotated[int, Field(ge=6)] = Field(
        6,
        description="seconds of silence after which this worker's partitions go to others; "
        "brokers refuse less than 6",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0,
        description="port where Prometheus reads this worker's metrics, and probes its health; 0: "
        "nowhere",
    )
    metrics_address: str = Field(
        "127.0.0.1", description="network interface of metrics_port; 0.0.0.0: all of them"
    )


class ApiSettings(Section):
    """The HTTP API. How lists are made, `worker` says: of how many items, how fresh, from where."""

    address: str = Field(
        "127.0.0.1", description="network interface that it listens on; 0.0.0.0: all of them"
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(8080, description="port")
    grpc_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None,
        description="port of the gRPC API, on the same interface, with the same keys; empty: there "
        "is none",
    )
    keys_file: Path | None = Field(
        None,
        description="file of the keys that may ask, made by headwater keys add; empty: whoever is "
        "on this machine may do all, which is allowed only on loopback, with local servers",
    )
    deadline_ms: Annotated[int, Field(ge=10, le=60_000)] = Field(
        800,
        description="how long a request may wait for the store and the model, in milliseconds, "
        "before it is answered with what trends: after half of it, where the store is silent; more "
        "than triton.timeout_ms",
    )
    deliver_within_s: Annotated[float, Field(gt=0, le=300)] = Field(
        5.0,
        description="how long Kafka may take to have an event on all in-sync replicas, in seconds, "
        "before whoever sent it is told to send it again",
    )
    batch_size: Annotated[int, Field(ge=1, le=256)] = Field(
        64, description="requests that are answered by one inference call, at most"
    )
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = Field(
        100.0,
        description="how long a request waits at most for the call that is under way, in "
        "milliseconds, before the next one begins beside it; shorter than a call takes, calls are "
        "many, small and slow; a quiet service does not wait",
    )
    max_body_bytes: Annotated[int, Field(ge=1024, le=4 * 1024 * 1024)] = Field(
        1024 * 1024, description="size of a request, at most, in bytes"
    )
    shown_items: Annotated[int, Field(ge=0, le=10_000)] = Field(
        200,
        description="items of the newest lists of a person that their row remembers, for "
        "exclude_shown, at most; 12 bytes each; 0: none, and the API writes no rows",
    )
    shown_for_s: Annotated[float, Field(gt=0)] = Field(
        86_400.0,
        description="how long an item that was shown is left out by exclude_shown, in seconds",
    )
    segment_events: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        200_000,
        description="newest events that a process keeps in memory, once it was asked what is "
        "popular in a segment, at most; about 125 bytes each; 0: none, and that is refused",
    )
    segment_horizon_s: Annotated[float, Field(gt=0)] = Field(
        2_592_000.0,
        description="events that Kafka took longer ago than so many seconds do not count for what "
        "is popular in a segment",
    )
    event_aliases: tuple[Annotated[str, Field(pattern=r"^[^=]+=[^=]+$")], ...] = Field(
        ("read=click", "star=click", "like=click"),
        description="which event is meant by the name that Gorse or Metarank has for it, "
        "NAME=EVENT; an event's own name stands for itself",
    )


@dataclass(frozen=True)
class WorkerConfig:
    """The settings that a worker needs, all addresses known."""

    kafka: BrokerSettings
    store: StoreSettings
    features: FeatureSettings
    triton: TritonSettings
    worker: WorkerSettings
    events: EventSettings = EventSettings()  # noqa: RUF009 (frozen)


class OidcSettings(Section):
    """An OpenID provider, beside keys: who logs in to the console, and programs at the API."""

    issuer: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = Field(
        None,
        description="issuer of the OpenID provider, as its discovery document has it; empty: keys "
        "alone open anything",
    )
    audience: str = Field(
        "",
        description="audience of the access tokens that the API takes in place of keys; their "
        "scopes are those of keys; empty: it takes none",
    )
    client_id: str = Field(
        "", description="the console's name at the provider; empty: the console asks for keys"
    )
    client_secret: SecretStr | None = Field(
        None, description="the console's secret there; empty: a public client, by PKCE alone"
    )
    redirect_url: Annotated[str, Field(pattern=r"^https?://\S+/login/oidc/done$")] | None = Field(
        None,
        description="address of this console to which the provider leads back, "
        "https://console.example.com/login/oidc/done",
    )
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="scopes to ask for")
    name_claim: str = Field(
        "email", description="claim of the ID token that names who has logged in, in the audit"
    )
    role_claim: str = Field(
        "roles",
        description="claim of the ID token whose values give roles; dots lead into objects, as in "
        "realm_access.roles",
    )
    viewers: tuple[str, ...] = Field((), description="values of role_claim that may look")
    operators: tuple[str, ...] = Field((), description="values of role_claim that may steer")
    administrators: tuple[str, ...] = Field((), description="values of role_claim that may do all")
    people_readers: tuple[str, ...] = Field(
        (), description="values of role_claim that see people's ids, besides administrators"
    )

    @model_validator(mode="after")
    def _provider_is_whole(self) -> "OidcSettings":
        if self.issuer is None:
            return self
        if not self.client_id and not self.audience:
            raise ValueError("client_id: is not set, nor is audience: issuer is of no use")
        if not self.client_id:
            return self
        if not self.redirect_url:
            raise ValueError("redirect_url: is not set, and client_id is")
        if "openid" not in self.scopes:
            raise ValueError("scopes: has no openid, without which nobody is told who logs in")
        if not self.viewers + self.operators + self.administrators:
            raise ValueError("viewers, operators and administrators are empty: nobody may log in")
        return self
