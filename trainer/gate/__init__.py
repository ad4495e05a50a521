"""The gate: what a version has to show before it may leave the trainer.

    a candidate, the live version ──▶ measure.py ──▶ checks.py ──▶ record.py ──▶ evaluation.json,
    events that neither has seen      (numbers)      (pure: the    (JSON)        verdicts.jsonl
                                                     verdict)

`docs/decisions/0015-gate.md` says what the checks catch, and how often they are wrong.
"""

from trainer.gate.checks import (
    EVALUATION,
    VERDICTS,
    GateMeasurements,
    Verdict,
    encode_verdict,
    record_verdict,
    verdict,
)
from trainer.gate.measure import JudgedVersion, measure

__all__ = [
    "EVALUATION",
    "VERDICTS",
    "GateMeasurements",
    "JudgedVersion",
    "Verdict",
    "encode_verdict",
    "measure",
    "record_verdict",
    "verdict",
]
