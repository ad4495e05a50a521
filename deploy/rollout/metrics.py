"""Prometheus metrics of a controller."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from deploy.rollout.decision import Decision
from deploy.rollout.record import share_of
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
    """A step was taken."""
    STEPS.labels(rollout.state.value).inc()
    SHARE.set(share_of(rollout))


def show(decided: Decision, rules: RolloutSettings) -> None:
    """What the figures say now; nothing while nothing was earned."""
    if (found := decided.effect) is not None:
        REWARD.labels("lower").set(found.lower(rules.false_promotion))
        REWARD.labels("estimate").set(found.estimate)
        REWARD.labels("upper").set(found.upper(rules.false_rollback))
