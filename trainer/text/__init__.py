"""What a language model makes of items' texts, and its tuning to a log."""

from trainer.text.encoder import (
    TextEncoder,
    TunedTextEncoder,
    load_text_encoder,
    load_tuned_encoder,
    save_weights,
)
from trainer.text.item_features import (
    BUCKETS,
    DIRECTIONS,
    ItemDescriptions,
    describe,
    describe_more,
    similarity_width,
)
from trainer.text.tuning import TuningResult, find_pairs, tune_language_model

__all__ = [
    "BUCKETS",
    "DIRECTIONS",
    "ItemDescriptions",
    "TextEncoder",
    "TunedTextEncoder",
    "TuningResult",
    "describe",
    "describe_more",
    "find_pairs",
    "load_text_encoder",
    "load_tuned_encoder",
    "save_weights",
    "similarity_width",
    "tune_language_model",
]
