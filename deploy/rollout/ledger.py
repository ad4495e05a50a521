"""What one partition's messages say of a rollout's variants, each counted once.

A ledger is a feedback row and the memory of what was shown. After a restart the row is read from
the store, and the memory is made again from the messages of the last window: those that the row has
absorbed are remembered, and not counted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headwater_client.events import Click, Purchase, Recommendation

from deploy.rollout.credit import Memory, Shown
from features.feedback import FeedbackRow, bucket_of
from features.rollout_messages import Variant
from features.topics import Hash, hash64


class Read(NamedTuple):
    """A message where it stood. `event` is None for what breaks the contract."""

    source: Hash
    offset: int
    time_ms: int
    event: Click | Purchase | Recommendation | None


class Ledger:
    """Counts one partition of a rollout.

    Args:
        rollout_id: what belongs to another one is passed over.
        row: what was counted so far.
        window_ms: how long after it was shown a recommendation can earn.
        purchase_weight: what a purchase earns, beside 1 for a click.
    """

    def __init__(
        self, rollout_id: str, row: FeedbackRow, window_ms: int, purchase_weight: float
    ) -> None:
        self.row = row
        self._rollout_id = rollout_id
        self._memory = Memory(window_ms)
        self._purchase_weight = purchase_weight

    def take(self, read: Read) -> None:
        """Take the next message, in the broker's order of time."""
        counts = read.offset > self.row.offsets.get(read.source, -1)
        if counts:
            self.row.offsets[read.source] = read.offset
            self.row.until_ms = max(self.row.until_ms, read.time_ms)
        if isinstance(read.event, Recommendation):
            self._show(read.event, read.time_ms, counts)
        elif read.event is not None:
            self._earn(read.event, read.time_ms, counts)

    def _show(self, answer: Recommendation, time_ms: int, counts: bool) -> None:
        if answer.rollout_id != self._rollout_id:
            return
        lists = _lists(answer)
        if not lists:
            return
        bucket = bucket_of(self._rollout_id, answer.user_id)
        hashed = {name: [hash64(item) for item in items] for name, items in lists.items()}
        shown = Shown(answer.recommendation_id, time_ms, bucket, hashed)
        known = self._memory.lately(answer.user_id, time_ms)
        if self._memory.show(answer.user_id, shown) and counts:
            self._count(answer, bucket, lists, known)

    def _count(
        self,
        answer: Recommendation,
        bucket: int,
        lists: Mapping[str, Sequence[str]],
        known: set[str],
    ) -> None:
        """Count what was shown.

        Args:
            known: variants that the person was shown just before. A person's scores are alike, so
                each counts once: what many of one person would tell is who it is.
        """
        if (shadow := answer.shadow) is not None:
            self.row.of(Variant.SHADOW).show(
                bucket,
                shadow.items,
                score=None if Variant.SHADOW in known else shadow.score,
                latency_ms=shadow.latency_ms,
                failed=bool(shadow.failed),
                fallback=False,
            )
        unscored = answer.fallback or not answer.items or answer.variant in known
        self.row.of(answer.variant).show(
            bucket,
            lists[answer.variant],
            score=None if unscored else answer.items[0].score,
            latency_ms=answer.latency_ms,
            failed=bool(answer.failed),
            fallback=answer.fallback,
        )

    def _earn(self, event: Click | Purchase, time_ms: int, counts: bool) -> None:
        for earned in self._memory.credit(event, time_ms):
            if counts:
                weight = self._purchase_weight if earned.bought else 1.0
                reward = weight * earned.discount
                self.row.of(earned.variant).earn(earned.bucket, reward, bought=earned.bought)


def _lists(answer: Recommendation) -> dict[str, list[str]]:
    """What is compared, by variant: a canary with its baseline, a shadow with what was shown."""
    shown = [item.item_id for item in answer.items]
    if answer.variant in (Variant.CANARY, Variant.BASELINE):
        return {answer.variant: shown}
    if answer.shadow is not None:
        return {answer.variant: shown, Variant.SHADOW: answer.shadow.items}
    return {}
