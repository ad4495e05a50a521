"""What a worker's own Prometheus metrics say of a stretch of time."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, str], float]
_LABELS = {"stage", "reason"}


@dataclass(frozen=True)
class Worked:
    """What a worker did between two moments.

    Attributes:
        batch_events: in a batch, on average.
        stage_ms: wall time of an average batch, by stage.
    """

    batch_events: float
    stage_ms: dict[str, float]
    retries: float
    conflicts: float


def scrape(port: int) -> Samples:
    """The metrics by name and label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "".join(v for k, v in sample.labels.items() if k in _LABELS)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("headwater_") and "le" not in sample.labels
    }


def worked(before: Samples, after: Samples) -> Worked:
    """What was done in between."""

    def grown(name: str, label: str = "") -> float:
        return after.get((name, label), 0.0) - before.get((name, label), 0.0)

    batches = max(1.0, grown("headwater_batch_events_count"))
    stages = sorted(label for name, label in after if name == "headwater_stage_seconds_sum")
    return Worked(
        batch_events=grown("headwater_batch_events_sum") / batches,
        stage_ms={
            stage: 1000 * grown("headwater_stage_seconds_sum", stage) / batches for stage in stages
        },
        retries=sum(
            grown(name, label) for name, label in after if name == "headwater_retries_total"
        ),
        conflicts=grown("headwater_write_conflicts_total"),
    )
