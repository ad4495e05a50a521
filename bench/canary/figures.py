"""What became of each version that was tried out, and what people on stable noticed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from bench.canary.people import SeenAnswer
from bench.harness.runner import make_table
from features.rollout_messages import RolloutPhase, RolloutStep, Variant

_OUR_OWN = (Variant.STABLE, Variant.BASELINE)


@dataclass(frozen=True)
class CanaryCase:
    """One candidate.

    Attributes:
        expected, outcome: the state that it had to end in and did, or `refused`.
        steps: of its rollout, none where it was refused.
        quiet, seen: recommendations right before it, and meanwhile.
    """

    name: str
    expected: str
    outcome: str
    reason: str
    steps: Sequence[RolloutStep]
    quiet: Sequence[SeenAnswer]
    seen: Sequence[SeenAnswer]


def figures(cases: Sequence[CanaryCase]) -> dict[str, Any]:
    """The report's figures, a row for each case."""
    rows = {case.name: _row(case) for case in cases}
    return {
        "as_expected": all(case.outcome == case.expected for case in cases),
        "stable_ill": sum(row["stable_ill"] for row in rows.values()),
        "people_who_changed_variant": sum(row["changed_variant"] for row in rows.values()),
        "rollback_to_last_canary_answer_s": max(
            (row["last_canary_answer_s"] for row in rows.values()), default=0.0
        ),
        "cases": rows,
    }


def _row(case: CanaryCase) -> dict[str, Any]:
    canary = [answer for answer in case.seen if answer.variant == Variant.CANARY]
    stable = [answer for answer in case.seen if answer.variant in _OUR_OWN]
    return {
        "expected": case.expected,
        "outcome": case.outcome,
        "reason": case.reason,
        "seconds": _seconds(case.steps),
        "states": [step.rollout.phase.value for step in case.steps],
        "shown": len(canary),
        "of_everyones": len(canary) / max(1, len(case.seen)),
        "stable_ill": sum(answer.ill for answer in stable),
        "stable_p99_ms": _p99_ms(stable),
        "quiet_p99_ms": _p99_ms(case.quiet),
        "changed_variant": _count_changed(case.seen),
        "last_canary_answer_s": _last_answer_s(case.steps, canary),
    }


def _seconds(steps: Sequence[RolloutStep]) -> float:
    """From the start to the verdict."""
    return (steps[-1].rollout.time - steps[0].rollout.time) / 1000 if steps else 0.0


def _p99_ms(seen: Sequence[SeenAnswer]) -> float:
    return float(np.percentile([answer.latency_ms for answer in seen], 99)) if seen else 0.0


def _count_changed(seen: Sequence[SeenAnswer]) -> int:
    """People who left the canary for its baseline, or the other way, within a rollout."""
    of: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for answer in seen:
        if answer.variant in (Variant.CANARY, Variant.BASELINE):
            of[answer.rollout_id, answer.user_id].add(answer.variant)
    return sum(len(variants) > 1 for variants in of.values())


def _last_answer_s(steps: Sequence[RolloutStep], canary: Sequence[SeenAnswer]) -> float:
    """How long after it was taken back the canary still answered; 0 where it was not."""
    if not steps or steps[-1].rollout.phase is not RolloutPhase.ROLLED_BACK:
        return 0.0
    decided_ms = steps[-1].rollout.time
    return max([0.0, *((answer.produced_ms - decided_ms) / 1000 for answer in canary)])


def make_cases_table(found: Mapping[str, Any]) -> Table:
    """All cases."""
    columns = ("outcome", "s", "canary shown", "of everyone's", "stable ill", "stable p99 ms")
    drawn = make_table("Rollouts on the real servers", "version", columns)
    drawn.add_column("why")
    for name, row in found["cases"].items():
        drawn.add_row(
            name,
            row["outcome"] if row["outcome"] == row["expected"] else f"{row['outcome']} (!)",
            f"{row['seconds']:.1f}",
            f"{row['shown']:,}",
            f"{row['of_everyones']:.1%}",
            str(row["stable_ill"]),
            f"{row['quiet_p99_ms']:.0f} > {row['stable_p99_ms']:.0f}",
            row["reason"],
        )
    return drawn
