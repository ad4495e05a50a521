"""Prometheus metrics of a worker."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from time import time

from headwater_client import EVENT_TYPES, Recommendation
from headwater_client.topics import IDENTITIES, ITEMS, PEOPLE
from headwater_client.topics import RECOMMENDATIONS as ANSWERS_TOPIC
from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from features.metrics import make_counter

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# Fine where answers are: a quantile is interpolated within a bucket.
_ANSWER_SECONDS = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)

EVENTS = Counter("headwater_events_total", "Events read, counted or not", ["topic"])
MISPLACED_EVENTS = Counter(
    "headwater_misplaced_events_total",
    "Interactions in another partition than their person's, or there with another key",
    ["topic", "reason"],
)
DEAD_LETTERS = Counter("headwater_dead_letters_total", "Events refused", ["topic"])
WRONG_TIMES = Counter(
    "headwater_wrong_times_total",
    "Events whose time, or whose message's arrival time, cannot be right: clamped or refused",
    ["topic", "reason"],
)
ITEM_FIELDS_FITTED = Counter(
    "headwater_item_fields_fitted_total", "Fields of items cut or left out to fit", ["field"]
)
DEAD_LETTERS_LOST = make_counter(
    "headwater_dead_letters_lost_total",
    "Events refused of which the dead-letter topic does not even take the reason",
    "topic",
    (*EVENT_TYPES.topics, ITEMS, PEOPLE, IDENTITIES),
)
MESSAGES_LOST = make_counter(
    "headwater_messages_lost_total",
    "Messages that their topic does not take, not even without what they can do without",
    "topic",
    (ANSWERS_TOPIC, IDENTITIES),
)
RECOMMENDATIONS = Counter(
    "headwater_recommendations_total", "Recommendations produced", ["variant", "fallback"]
)
ANSWER_SECONDS = Histogram(
    "headwater_event_to_answer_seconds",
    "Time from when Kafka took an event until its answer left for Kafka",
    buckets=_ANSWER_SECONDS,
)
ROW_SECONDS = Histogram(
    "headwater_event_to_row_seconds",
    "Time from when Kafka took an event until rows held it, so that answers knew it",
    buckets=_ANSWER_SECONDS,
)
UNANSWERED = Counter(
    "headwater_unanswered_events_total",
    "Events that are counted in the rows and not answered. late: older than "
    "worker.answer_within_s; answered: read again, because the store had lost them",
    ["reason"],
)
SHORT_LISTS = make_counter(
    "headwater_short_lists_total",
    "Lists that the best of a version did not fill, by what filled them",
    "filled_by",
    ("version", "popular", "nothing"),
)
MODEL_REQUEST_SECONDS = Histogram(
    "headwater_model_request_seconds",
    "Wall time of a call of a variant's version",
    ["variant"],
    buckets=_SECONDS,
)
MODEL_FAILURES = Counter(
    "headwater_model_failures_total", "People whom a variant's version did not answer", ["variant"]
)
CONFLICTS = Counter(
    "headwater_write_conflicts_total", "Rows that another worker had written since they were read"
)
REPEATED_EVENTS = Counter(
    "headwater_repeated_events_total",
    "Events that do not count because their person has had one of their id",
    ["topic", "content"],
)
RETRIES = Counter("headwater_retries_total", "Batches tried again in place", ["reason"])
BATCH_EVENTS = Histogram(
    "headwater_batch_events", "Events in a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
STAGE_SECONDS = Histogram(
    "headwater_stage_seconds",
    "Wall time of a batch, or of a variant's part of it, in a stage",
    ["stage"],
    buckets=_SECONDS,
)
ROUTED_VERSION = Gauge(
    "headwater_routed_version",
    "Version that a variant is answered by; 0 while it cannot be read",
    ["variant"],
)
LEASE_EXPIRED = Gauge(
    "headwater_rollout_lease_expired",
    "Whether a rollout is not shown because no controller watches it",
)
ABSORBED_OFFSET = Gauge(
    "headwater_absorbed_offset", "Offset up to which rows hold events", ["topic", "partition"]
)
COMMITTED_OFFSET = Gauge("headwater_committed_offset", "Offset committed", ["topic", "partition"])


class LagCollector(Collector):
    """Tells the lag as it is when it is asked, whatever hangs.

    Args:
        count_waiting: messages that are not committed, by topic and partition; from any thread.
    """

    def __init__(self, count_waiting: Callable[[], Mapping[tuple[str, int], int]]) -> None:
        self._count_waiting = count_waiting

    def describe(self) -> Iterable[Metric]:
        """Nothing: that the name is free is not checked, as workers of a test share a process."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The lag of each partition."""
        lag = GaugeMetricFamily(
            "headwater_consumer_lag",
            "Messages of a worker's partitions that are not committed",
            labels=["topic", "partition"],
        )
        for (topic, partition), waiting in self._count_waiting().items():
            lag.add_metric([topic, str(partition)], waiting)
        return (lag,)


def count_wrong_time(topic: str, reason: str) -> None:
    """Count an event whose time is ahead or behind, or whose message's time cannot be."""
    WRONG_TIMES.labels(topic, reason).inc()


def count_events(topics: Iterable[str]) -> None:
    """Count a batch of messages, given the topic of each."""
    for topic, number in Tally(topics).items():
        EVENTS.labels(topic).inc(number)


def count_recommendations(recommendations: Iterable[Recommendation]) -> None:
    """Count recommendations by variant, and whether they are fallbacks."""
    tally = Tally((message.variant, message.fallback) for message in recommendations)
    for (variant, fallback), number in tally.items():
        RECOMMENDATIONS.labels(variant, fallback).inc(number)


def note_absorbed(
    offsets: Iterable[tuple[str, int, int]], arrivals_ms: Iterable[int | None]
) -> None:
    """Note that rows hold a batch just now.

    Args:
        offsets: topic, partition and offset of each message, ascending in each partition.
        arrivals_ms: as `observe_answers` takes them, of each event.
    """
    newest = {(topic, partition): offset for topic, partition, offset in offsets}
    for (topic, partition), offset in newest.items():
        ABSORBED_OFFSET.labels(topic, partition).set(offset + 1)
    _observe_ages(ROW_SECONDS, arrivals_ms)


def observe_answers(arrivals_ms: Iterable[int | None]) -> None:
    """Note how long ago the events came that were answered just now.

    Args:
        arrivals_ms: when Kafka took each, by its broker's clock; None where that is not known.
    """
    _observe_ages(ANSWER_SECONDS, arrivals_ms)


def _observe_ages(histogram: Histogram, arrivals_ms: Iterable[int | None]) -> None:
    now_ms = time() * 1000
    for arrived_ms in arrivals_ms:
        if arrived_ms is not None:
            # The broker's clock may be ahead of this one.
            histogram.observe(max(0.0, now_ms - arrived_ms) / 1000)
