"""Training examples: logs replayed as the stream would have seen them. Without torch.

What holds tensors is imported from its module: `batches`, `cooccurrence`.
"""

from trainer.examples.replay import (
    BoolArray,
    EventHistory,
    Example,
    Examples,
    ItemTrends,
    Replayer,
    build_examples,
    compute_trends,
    item_events,
    observe_log,
    order_by_person,
    previous_times_ms,
    replay_log,
    select_positive,
)
from trainer.examples.splits import DataSplits, split_by_time

__all__ = [
    "BoolArray",
    "DataSplits",
    "EventHistory",
    "Example",
    "Examples",
    "ItemTrends",
    "Replayer",
    "build_examples",
    "compute_trends",
    "item_events",
    "observe_log",
    "order_by_person",
    "previous_times_ms",
    "replay_log",
    "select_positive",
    "split_by_time",
]
