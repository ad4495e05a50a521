"""A rollout: a canary's share grows, it is promoted or rolled back, by what feedback says of it.

    feedback/   counts what was recommended and what people did with it
    evidence    the canary's effect on reward, with a confidence sequence
    guards      limits of errors, latency, coverage and drift
    decision    a pure function of state, inputs and settings
    history     steps as they are stored, read and replayed
    commands    what operators and trainers ask of the controller; `requests` sends them
    controller  ties these to Kafka and the store; `log` makes one controller lead

What is imported here needs neither Kafka nor Feast.
"""

from deploy.rollout.commands import CommandRequest, sign_command
from deploy.rollout.decision import RolloutState, decide, initial_state
from deploy.rollout.errors import CommandRejectedError, FencedError
from deploy.rollout.evidence import DecisionInputs, Effect, Health, VariantTally, estimate_effect
from deploy.rollout.history import is_reproducible
from deploy.rollout.settings import RolloutSettings
from deploy.rollout.trial import Trial

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
