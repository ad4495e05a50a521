"""Logs as columns of training examples."""

from __future__ import annotations

from features.schema import FeatureSchema, Vocabulary
from trainer.datasets import Log
from trainer.examples import Examples, build_examples, observe_log, replay_log


def columns_of(log: Log, vocabulary: Vocabulary, schema: FeatureSchema) -> Examples:
    """A log's events that counted."""
    return build_examples(
        replay_log(observe_log(log.events, log.items), schema), vocabulary, schema
    )
