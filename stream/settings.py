"""Settings of the fast loop: the model server that it asks, and the worker itself."""

from __future__ import annotations

from socket import gethostname
from typing import Annotated

from pydantic import Field

from features.settings import Section


class TritonSettings(Section):
    """Where Triton is. Without `url` a local server is started."""

    url: str | None = Field(None, description="gRPC host:port; empty: local")
    tls: bool = False
    tls_ca_file: str | None = Field(None, description="PEM file of the authority to trust")
    model: str = "temporal_llm"
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 500
    canary_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = Field(
        500, description="of a version on trial; never more than timeout_ms"
    )


class WorkerSettings(Section):
    """How a worker gathers, scores and answers."""

    name: str = Field(
        default_factory=gethostname,
        min_length=1,
        description="stable and unlike any other worker's: a restarted worker is known by it",
    )
    group: str = Field("headwater", min_length=1, description="Kafka consumer group")
    top_k: Annotated[int, Field(ge=1, le=100)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        128, description="events handled at once; a quiet stream does not wait for them"
    )
    trending_items: Annotated[int, Field(ge=1, le=10_000)] = Field(
        512, description="items that a source remembers as its most popular"
    )
    trending_candidates: Annotated[int, Field(ge=1, le=1000)] = 50
    trends_refresh_s: Annotated[float, Field(gt=0)] = Field(
        2.0, description="how old a worker's view of the trends may be"
    )
    catalogue_refresh_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="how old a worker's view of an item's availability may be"
    )
    fallback_items: Annotated[int, Field(ge=1)] = Field(
        200, description="popular items looked through when the model does not answer"
    )
    commit_interval_s: Annotated[float, Field(gt=0)] = 1.0
    row_cache: Annotated[int, Field(ge=0)] = Field(
        20_000,
        description="rows kept at hand; a write still checks that the stored row is the same",
    )
    session_timeout_s: Annotated[int, Field(ge=6)] = Field(
        6, description="after so long its partitions go to others; brokers refuse less than 6"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="where Prometheus reads metrics; 0: nowhere"
    )
    metrics_address: str = Field(
        "127.0.0.1", description="the interface of metrics_port; 0.0.0.0: all of them"
    )
