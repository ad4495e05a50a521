"""A rollout: a canary's share grows, it is promoted or rolled back, by what feedback says of it.

    feedback/   counts what was recommended and what people did with it
    evidence    the canary's effect on reward, with a confidence sequence
    guards      limits of errors, latency, coverage and drift
    decision    a pure function of state, inputs and settings
    history     steps as they are stored, read and replayed
    course      how the evidence went, in samples, and when a verdict is to be expected
    commands    what operators and trainers ask of the controller; `topic` sends them
    subjects    what can be tried out: a version of a model, or rules of a placement
    log         the topic `rollouts` as the controller that leads reads and writes it
    topic       the same as operators read it
    controller  ties these to Kafka and the store

What is imported here needs neither Kafka nor Feast.
"""

from deploy.rollout.commands import CommandRejectedError, CommandRequest, FencedError, sign_command
from deploy.rollout.decision import RolloutState, Trial, decide, initial_state
from deploy.rollout.evidence import DecisionInputs, Effect, Health, VariantTally, estimate_effect
from deploy.rollout.history import is_reproducible
from deploy.rollout.settings import RolloutSettings

__all__ = [
    "CommandRejectedError",
    "CommandRequest",
    "DecisionInputs",
    "Effect",
    "FencedError",
    "Health",
    "RolloutSettings",
    "RolloutState",
    "Trial",
    "VariantTally",
    "decide",
    "estimate_effect",
    "initial_state",
    "is_reproducible",
    "sign_command",
]
