"""Rollouts as people read them, and as JSON for programs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from headwater_client.errors import DataError
from headwater_client.topics import PARTITIONER
from rich.table import Table
from rich.text import Text

from deploy.rollout import history
from deploy.rollout.evidence import estimate_effect
from deploy.rollout.feedback.counters import Placement
from features import rollout_messages
from features.rollout_messages import Rollout, RolloutPhase, RolloutStep

_FIGURES = ("shown", "reward", "effect", "failed", "p99", "drift")


def status_table(current: Rollout) -> Table:
    """Who gets which version now."""
    name = f"{current.rollout_id}: " if current.rollout_id else ""
    table = Table(title=as_text(f"{name}{current.phase}"), title_justify="left")
    table.add_column("variant")
    of_placement = rollout_messages.placement_of(current.model) is not None
    for column in ("rules" if of_placement else "version", "share"):
        table.add_column(column, justify="right")
    for routed in current.versions:
        name = _name_rules(current, routed) if of_placement else str(routed.version)
        table.add_row(as_text(routed.variant), name, f"{routed.share:.0%}")
    return table


def _name_rules(current: Rollout, routed: rollout_messages.RoutedVersion) -> str:
    """Rules have a revision once they stand on the topic `placements`."""
    if routed.rules is not None:
        return "tried out"
    is_promoted = current.phase is RolloutPhase.PROMOTED
    return "promoted" if is_promoted else f"revision {routed.version}"


def status_lines(current: Rollout, steps: Sequence[RolloutStep], placement: Placement) -> list[str]:
    """What somebody should know beside the table: the newest step, and lost credit."""
    lines = []
    if (step := _newest_step(current, steps)) is not None:
        lines.append(
            f"{datetime.fromtimestamp(step.rollout.time / 1000, UTC):%m-%d %H:%M:%S} "
            f"{as_text(step.actor)}: {as_text(step.reason)}"
        )
    if counted := _describe_counted(steps):
        lines.append(f"reward, people and coverage count the lists that people {counted}")
    if placement.elsewhere:
        lines.append(
            f"{placement.elsewhere:,} of the newest {placement.sampled:,} clicks and purchases "
            f"({placement.elsewhere / placement.sampled:.1%}) are from people whose "
            "recommendations are in another partition, and count for none: send events with the "
            f"key user_id and Kafka's own partitioner ({PARTITIONER})"
        )
    return lines


def status_as_json(
    current: Rollout, steps: Sequence[RolloutStep], placement: Placement
) -> dict[str, Any]:
    """The same for programs."""
    step = _newest_step(current, steps)
    return {
        **msgspec.to_builtins(current),
        "reason": step.reason if step else "",
        "counted": _describe_counted(steps),
        "interactions": placement._asdict(),
    }


_OF_SEEN = "have seen, by their impressions"
_OF_SENT = "were sent: the app sends no impressions, or few"


def _describe_counted(steps: Sequence[RolloutStep]) -> str:
    """Whether what was seen counts or what was sent; "" where nothing was decided on figures."""
    decided = next((step for step in reversed(steps) if history.has_inputs(step)), None)
    if decided is None:
        return ""
    try:
        return _OF_SEEN if history.inputs_of(decided).of_seen else _OF_SENT
    except DataError:
        return ""


def _newest_step(current: Rollout, steps: Sequence[RolloutStep]) -> RolloutStep | None:
    """That of the rollout that workers follow; None where a version was announced."""
    step = steps[-1] if steps else None
    return step if step and step.rollout.rollout_id == current.rollout_id else None


def history_table(steps: list[RolloutStep]) -> Table:
    """Each step, and the figures that it was decided on."""
    table = Table(title_justify="left", expand=True)
    for column in ("time", "rollout", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("share", "shown", "reward", "beside baseline", "failed", "p99 ms", "drift"):
        table.add_column(column, justify="right")
    table.add_column("by")
    table.add_column("reason", ratio=1)
    for step in steps:
        figures, note = _figures_and_note(step)
        table.add_row(
            f"{datetime.fromtimestamp(step.rollout.time / 1000, UTC):%m-%d %H:%M:%S}",
            as_text(step.rollout.rollout_id),
            step.rollout.phase,
            f"{history.share_of(step.rollout):.0%}",
            *(figures.get(name, "") for name in _FIGURES),
            as_text(step.actor),
            as_text(f"{step.reason}{note}"),
        )
    return table


def as_text(said: str) -> Text:
    r"""What somebody wrote, as it stands: brackets are no markup, and nothing moves the cursor.

    >>> as_text("[/] \x1b[2J").plain
    '[/] ?[2J'
    """
    return Text("".join(each if each.isprintable() else "?" for each in said))


def _figures_and_note(step: RolloutStep) -> tuple[dict[str, str], str]:
    """A step's figures, and what its reader should know of them."""
    try:
        note = "" if history.is_reproducible(step) else " (today's rules decide otherwise)"
        return figures_row(step), note
    except DataError as error:
        return {}, f" ({error})"


def figures_row(step: RolloutStep) -> dict[str, str]:
    """What a decision was taken on, canary / baseline; empty where somebody asked for it.

    Raises:
        DataError: it cannot be read.
    """
    if not history.has_inputs(step):
        return {}
    inputs, rules = history.inputs_of(step), history.rules_of(step)
    canary, baseline = inputs.canary, inputs.baseline
    ours, theirs = inputs.canary_health, inputs.baseline_health
    effect = estimate_effect(canary, baseline)
    bounds = "-"
    if effect:
        lower, upper = effect.lower(rules.false_promotion), effect.upper(rules.false_rollback)
        bounds = f"{lower:+.1%} to {upper:+.1%}"
    return {
        "shown": f"{canary.shown.sum():.0f} / {baseline.shown.sum():.0f}",
        "reward": f"{canary.reward.sum():.1f} / {baseline.reward.sum():.1f}",
        "effect": bounds,
        "failed": f"{ours.counts['failed']} / {theirs.counts['failed']}",
        "p99": f"{ours.p99_ms:.0f} / {theirs.p99_ms:.0f}",
        "drift": f"{inputs.drift:.2f}",
    }


def step_as_json(step: RolloutStep) -> dict[str, Any]:
    """A step for programs, and whether deciding again gives the same.

    Raises:
        DataError: it cannot be read.
    """
    decision = history.replay_decision(step)
    effect = decision.effect if decision else None
    return {
        "rollout_id": step.rollout.rollout_id,
        "sequence": step.rollout.sequence,
        "time": step.rollout.time,
        "state": step.rollout.phase,
        "share": history.share_of(step.rollout),
        "versions": [
            {"variant": routed.variant, "version": routed.version, "share": routed.share}
            for routed in step.rollout.versions
        ],
        **({"change": step.snapshot["change"]} if "change" in step.snapshot else {}),
        "actor": step.actor,
        "reason": step.reason,
        "inputs": step.inputs,
        "effect": {"estimate": effect.estimate, "error": effect.error} if effect else None,
        "replayed_alike": history.is_reproducible(step),
    }
