"""Settings of the fast loop: the model server that it calls, and the worker itself."""

from dataclasses import dataclass
from socket import gethostname
from typing import Annotated

from pydantic import Field

from features.settings import BrokerSettings, FeatureSettings, Section, StoreSettings


class TritonSettings(Section):
    """Where Triton is. Without `url` a local server is started."""

    url: str | None = Field(None, description="gRPC address, host:port; empty: a local Triton")
    tls: bool = Field(False, description="connect by TLS")
    tls_ca_file: str | None = Field(
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
        200, description="popular items looked through when the model does not answer"
    )
    answer_within_s: Annotated[float, Field(gt=0)] = Field(
        3600.0,
        description="an event that Kafka took longer ago than so many seconds changes the rows and "
        "is not answered: after an outage or a reset nobody waits for it",
    )
    commit_interval_s: Annotated[float, Field(gt=0)] = Field(
        1.0, description="seconds from one commit of offsets to the next"
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


@dataclass(frozen=True)
class WorkerConfig:
    """The settings that a worker needs, all addresses known."""

    kafka: BrokerSettings
    store: StoreSettings
    features: FeatureSettings
    triton: TritonSettings
    worker: WorkerSettings
