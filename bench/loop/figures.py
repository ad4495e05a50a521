"""What was measured of the loop: figures, tables, and what the worker's own metrics say."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import RenderableType
from rich.table import Table

from bench.harness.measure import Latencies, Sustained
from bench.harness.runner import make_table

_WAYS = ("Headwater", "one at a time")
_GENERATOR = ("producer", "reader")
_LABELS = {"stage", "reason"}

# The worker's metrics by name and label.
Samples = dict[tuple[str, str], float]


@dataclass(frozen=True)
class WorkerActivity:
    """What a worker did between two moments.

    Attributes:
        batch_events: in a batch, on average.
        stage_ms: wall time of an average batch, by stage.
    """

    batch_events: float
    stage_ms: dict[str, float]
    retries: float
    conflicts: float


@dataclass(frozen=True)
class MeasuredWay:
    """What was measured of one way."""

    sustained: Sustained
    latency: Mapping[str, Latencies]
    work: WorkerActivity | None = None

    @property
    def stages(self) -> dict[str, float]:
        """Microseconds of CPU an event, by process."""
        return self.sustained.stages

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds of CPU an event: of all processes, and without the load's own."""
        total = sum(self.stages.values())
        own = sum(self.stages[name] for name in _GENERATOR)
        return {"total": total, "without_load": total - own}


def scrape(port: int) -> Samples:
    """The metrics of the worker that serves them at this port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "".join(v for k, v in sample.labels.items() if k in _LABELS)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("headwater_") and "le" not in sample.labels
    }


def work_between(before: Samples, after: Samples) -> WorkerActivity:
    """What was done in between."""

    def growth(name: str, label: str = "") -> float:
        return after.get((name, label), 0.0) - before.get((name, label), 0.0)

    batches = max(1.0, growth("headwater_batch_events_count"))
    stages = sorted(label for name, label in after if name == "headwater_stage_seconds_sum")
    return WorkerActivity(
        batch_events=growth("headwater_batch_events_sum") / batches,
        stage_ms={
            stage: 1000 * growth("headwater_stage_seconds_sum", stage) / batches for stage in stages
        },
        retries=sum(
            growth(name, label) for name, label in after if name == "headwater_retries_total"
        ),
        conflicts=growth("headwater_write_conflicts_total"),
    )


def figures(
    headwater: MeasuredWay, baseline: MeasuredWay, parts: Mapping[str, float]
) -> dict[str, Any]:
    """What the report holds."""
    mine, theirs = headwater.sustained, baseline.sustained
    half = headwater.latency["half"]
    return {
        "events_per_second": mine.events_per_second,
        "baseline_events_per_second": theirs.events_per_second,
        "speedup": mine.events_per_second / theirs.events_per_second,
        "latency_ms": {**headwater.latency, "p50": half["p50"], "p99": half["p99"]},
        "baseline_latency_ms": baseline.latency,
        "stages": headwater.stages,
        "baseline_stages": baseline.stages,
        "cpu_us": headwater.cpu_us,
        "baseline_cpu_us": baseline.cpu_us,
        "parts_us": dict(parts),
        "parts_over_loop": sum(parts.values()) / headwater.cpu_us["total"],
        "worker": asdict(headwater.work) if headwater.work else {},
        "answers_per_event": mine.answers / mine.sent,
        "fallbacks": mine.fallbacks,
        "baseline_fallbacks": theirs.fallbacks,
    }


def show(report: Mapping[str, Any]) -> Sequence[RenderableType]:
    """The report for people."""
    return [_speed(report), _cpu(report), _parts(report), _checks(report)]


def _speed(figures: Mapping[str, Any]) -> Table:
    cores = figures["cores"]
    title = f"The whole loop, all processes on {cores} core{'s' * (cores > 1)}"
    table = make_table(title, "", _WAYS)
    table.add_row(
        "events/s, sustained",
        f"{figures['events_per_second']:,.0f}  ({figures['speedup']:.1f} times)",
        f"{figures['baseline_events_per_second']:,.0f}",
    )
    for name, share in (("quarter", "a quarter"), ("half", "half")):
        mine, theirs = (figures[way].get(name) for way in ("latency_ms", "baseline_latency_ms"))
        table.add_row(f"ms at {share} of it, p50 / p90 / p99", _latency(mine), _latency(theirs))
    return table


def _latency(found: Mapping[str, float] | None) -> str:
    return " / ".join(f"{found[name]:.0f}" for name in ("p50", "p90", "p99")) if found else "-"


def _cpu(figures: Mapping[str, Any]) -> Table:
    table = make_table("Microseconds of CPU an event", "", _WAYS)
    mine, theirs = figures["stages"], figures["baseline_stages"]
    for name in mine:
        table.add_row(name, f"{mine[name]:,.0f}", f"{theirs[name]:,.0f}")
    table.add_section()
    for name in figures["cpu_us"]:
        row = (figures[way][name] for way in ("cpu_us", "baseline_cpu_us"))
        table.add_row(name.replace("_", " "), *(f"{value:,.0f}" for value in row))
    return table


def _parts(figures: Mapping[str, Any]) -> Table:
    batch = figures["worker"]["batch_events"]
    title = f"Each part alone, in batches of {batch:.0f}"
    table = make_table(title, "", ["microseconds an event"])
    for name, value in figures["parts_us"].items():
        table.add_row(name, f"{value:,.1f}")
    table.add_section()
    table.add_row("sum", f"{sum(figures['parts_us'].values()):,.0f}")
    table.add_row("of the loop's total", f"{figures['parts_over_loop']:.2f}")
    return table


def _checks(figures: Mapping[str, Any]) -> str:
    worker = figures["worker"]
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in worker["stage_ms"].items())
    return (
        f"{figures['answers_per_event']:.2f} recommendations an event (order: {figures['order']}); "
        f"batches of {worker['batch_events']:.0f} events; ms of a batch: {stages}\n"
        f"fallbacks {figures['fallbacks']}, dead letters {figures['dead_letters']}, "
        f"retries {worker['retries']:.0f}, write conflicts {worker['conflicts']:.0f}; "
        "all events committed"
    )
