"""The figures of `bench.loop` as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness.tables import figures_table

_WAYS = ("Headwater", "one at a time")


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    for table in (_speed(figures), _cpu(figures), _parts(figures)):
        console.print(table)
    console.print(_checks(figures), highlight=False)


def _speed(figures: Mapping[str, Any]) -> Table:
    cores = figures["cores"]
    title = f"The whole loop, all processes on {cores} core{'s' * (cores > 1)}"
    table = figures_table(title, "", _WAYS)
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
    table = figures_table("Microseconds of CPU an event", "", _WAYS)
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
    table = figures_table(title, "", ["microseconds an event"])
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
