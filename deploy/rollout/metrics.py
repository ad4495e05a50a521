"""Prometheus metrics of a controller."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from deploy.rollout.decision import Decision
from deploy.rollout.history import share_of
from deploy.rollout.settings import RolloutSettings
from features.rollout_messages import Rollout

LEADS = Gauge("headwater_rollout_leads", "Whether this controller is the one that decides")
SHARE = Gauge("headwater_rollout_share", "Share of people that the candidate has; 0 for none")
STEPS = Counter("headwater_rollout_steps_total", "Steps of rollouts", ["state"])
REWARD = Gauge(
    "headwater_rollout_reward_ratio_log",
    "Logarithm of the canary's reward over its baseline's: what it is at least, about, at most",
    ["bound"],
)


def count_step(rollout: Rollout) -> None:
    """Count a step, and show the candidate's share after it."""
    STEPS.labels(rollout.phase.value).inc()
    SHARE.set(share_of(rollout))


def set_reward(decision: Decision, rules: RolloutSettings) -> None:
    """Show the effect that a decision was taken on; nothing while nothing was earned."""
    if (effect := decision.effect) is not None:
        REWARD.labels("lower").set(effect.lower(rules.false_promotion))
        REWARD.labels("estimate").set(effect.estimate)
        REWARD.labels("upper").set(effect.upper(rules.false_rollback))
