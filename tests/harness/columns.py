"""Logs as columns of training examples."""

from __future__ import annotations

from features.schema import FeatureSchema
from features.vocabulary import Vocabulary
from trainer.datasets.log import Log
from trainer.examples.replay import Examples, examples, observed_log, replay


def columns_of(log: Log, vocabulary: Vocabulary, schema: FeatureSchema) -> Examples:
    """A log's events that counted."""
    return examples(replay(observed_log(log.events, log.items), schema), vocabulary, schema)
