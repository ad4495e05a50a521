"""Rollouts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from deploy.rollout.evidence import effect
from deploy.rollout.record import agrees, decided_again, figures_of, share_of
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Rollout, RolloutStep


def status_table(current: Rollout) -> Table:
    """Who gets what now."""
    name = f"{current.rollout_id}: " if current.rollout_id else ""
    drawn = Table(title=f"{name}{current.state}", title_justify="left")
    for column, side in (("variant", "left"), ("version", "right"), ("share", "right")):
        drawn.add_column(column, justify="right" if side == "right" else "left")
    for each in current.versions:
        drawn.add_row(each.variant, str(each.version), f"{each.share:.0%}")
    return drawn


def history_table(steps: list[RolloutStep]) -> Table:
    """Each step, and the figures that it was taken on."""
    drawn = Table(title_justify="left", expand=True)
    for column in ("time", "rollout", "state"):
        drawn.add_column(column, no_wrap=True)
    for column in ("share", "shown", "reward", "beside baseline", "failed", "p99 ms", "drift"):
        drawn.add_column(column, justify="right")
    drawn.add_column("by")
    drawn.add_column("reason", ratio=1)
    for each in steps:
        shown = figures_row(each)
        drawn.add_row(
            f"{datetime.fromtimestamp(each.rollout.time / 1000, UTC):%m-%d %H:%M:%S}",
            each.rollout.rollout_id,
            each.rollout.state,
            f"{share_of(each.rollout):.0%}",
            *(
                shown.get(name, "")
                for name in ("shown", "reward", "effect", "failed", "p99", "drift")
            ),
            each.actor,
            each.reason if agrees(each) else f"{each.reason} (today's rules decide otherwise)",
        )
    return drawn


def figures_row(taken: RolloutStep) -> dict[str, str]:
    """What a decision was taken on, canary / baseline; empty where somebody asked for it."""
    if "figures" not in taken.inputs:
        return {}
    seen, rules = figures_of(taken.inputs), RolloutSettings.model_validate(taken.inputs["rules"])
    ours, theirs = seen.canary_health, seen.baseline_health
    found = effect(seen.canary, seen.baseline)
    bounds = (
        f"{found.lower(rules.false_promotion):+.1%} to {found.upper(rules.false_rollback):+.1%}"
        if found
        else "-"
    )
    return {
        "shown": f"{seen.canary.shown.sum():.0f} / {seen.baseline.shown.sum():.0f}",
        "reward": f"{seen.canary.reward.sum():.1f} / {seen.baseline.reward.sum():.1f}",
        "effect": bounds,
        "failed": f"{ours.errors} / {theirs.errors}",
        "p99": f"{ours.p99_ms:.0f} / {theirs.p99_ms:.0f}",
        "drift": f"{seen.drift:.2f}",
    }


def as_json(taken: RolloutStep) -> dict[str, Any]:
    """A step for programs, and whether deciding again gives the same."""
    again = decided_again(taken)
    return {
        "rollout_id": taken.rollout.rollout_id,
        "sequence": taken.rollout.sequence,
        "time": taken.rollout.time,
        "state": taken.rollout.state,
        "share": share_of(taken.rollout),
        "versions": [
            {"variant": each.variant, "version": each.version, "share": each.share}
            for each in taken.rollout.versions
        ],
        "actor": taken.actor,
        "reason": taken.reason,
        "inputs": taken.inputs,
        "effect": None
        if again is None or again.effect is None
        else {"estimate": again.effect.estimate, "error": again.effect.error},
        "replayed_alike": agrees(taken),
    }
