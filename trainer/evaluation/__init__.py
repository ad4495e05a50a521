"""The evaluation harness: one for training, the gate, optimised variants and benchmarks.

    requests.py     held-out events as requests to a graph, each with one right item
    evaluate.py     ranks of the right items, one step ahead, beside decayed popularity
    held.py         events kept from training, as the versions that are compared see them
    prequential.py  test, then train, window by window
    popularity.py   decayed popularity, the baseline
    off_policy.py   what another policy would have earned on what was logged
    rules_replay.py what other rules of a list would have done with the lists that were logged

Rules: an event is asked for with what its person did strictly before its instant; what else was
taken at that instant is no wrong answer; an item that was taken before is neither asked for nor
recommended; an equal score counts half; an item that a method does not know is missed. "Near", of
two events, is less than an hour apart. Ranks become metrics and intervals in `trainer.metrics`.
"""

from trainer.evaluation.evaluate import (
    DecayedPopularity,
    EvalRequests,
    Evaluation,
    HoldoutSet,
    MethodEvaluation,
    evaluate,
    group_events,
    hold_out,
    newest_requests,
    popularity_scores,
    sample_requests,
    split_feeds,
)

__all__ = [
    "DecayedPopularity",
    "EvalRequests",
    "Evaluation",
    "HoldoutSet",
    "MethodEvaluation",
    "evaluate",
    "group_events",
    "hold_out",
    "newest_requests",
    "popularity_scores",
    "sample_requests",
    "split_feeds",
]
