"""The gate: what a version has to show before it may leave the trainer.

    a candidate, the live version ──▶ measure.py ──▶ checks.py ──▶ record.py ──▶ evaluation.json,
    events that neither has seen      (numbers)      (pure: the    (JSON)        verdicts.jsonl
                                                     verdict)

Who only reads verdicts needs no torch: `measure` is imported by its own name.
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

__all__ = [
    "EVALUATION",
    "VERDICTS",
    "GateMeasurements",
    "Verdict",
    "encode_verdict",
    "record_verdict",
    "verdict",
]
