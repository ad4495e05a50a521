"""What one partition's messages say of a rollout's variants, each counted once.

A ledger is a feedback row and the attribution window. After a restart the row is read from the
store, and the window is filled again from the messages of its length: those that the row has
absorbed are remembered, and not counted again.

Each variant is counted twice: by the lists that were sent, and by those that were really seen, as
far as impressions say. Which of the two a decision is taken on: `deploy.rollout.evidence`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from headwater_client import Impression
from headwater_client.event_types import CLICK, EVENT_TYPES, PURCHASE
from headwater_client.events import Interaction, Recommendation
from msgspec import structs

from deploy.rollout.feedback.attribution import AttributionWindow, Credit, ServedRecommendation
from deploy.rollout.feedback.counters import FeedbackRow, VariantList, bit_of, bucket_of, name_seen
from features.rollout_messages import Variant
from features.topics import Hash, hash64

# What each variant is compared with.
_COMPARED_WITH: dict[str, str] = {
    Variant.CANARY: Variant.BASELINE,
    Variant.BASELINE: Variant.CANARY,
    Variant.SHADOW: Variant.STABLE,
    Variant.STABLE: Variant.SHADOW,
}
_COMPARED_WITH |= {name_seen(one): name_seen(other) for one, other in _COMPARED_WITH.items()}


Value = TypeVar("Value")


class FeedbackMessage(NamedTuple):
    """A message and its place in the topic. `event` is None for one that breaks the contract."""

    source: Hash
    offset: int
    time_ms: int
    event: Interaction | Recommendation | None


@dataclass(frozen=True)
class FeedbackScope:
    """Which feedback counts, and for how much.

    Attributes:
        rollout_id: messages of other rollouts are passed over.
        started_ms: when the rollout began.
        window_ms: how long after it was shown a recommendation can earn.
        purchase_reward: what a purchase earns, beside 1 for a click.
        of_placement: whether rules of a placement are tried out, and not a version.
    """

    rollout_id: str
    started_ms: int
    window_ms: int
    purchase_reward: float = 1.0
    of_placement: bool = False


class Ledger:
    """Counts one partition of a rollout.

    Args:
        row: what was counted so far.
    """

    def __init__(self, scope: FeedbackScope, row: FeedbackRow) -> None:
        self.row = row
        self._scope = scope
        self._window = AttributionWindow(scope.window_ms)
        self._rewards = find_rewards(scope.purchase_reward)

    def apply(self, message: FeedbackMessage) -> None:
        """Take the next message, in the broker's order of time."""
        is_new = message.offset > self.row.offsets.get(message.source, -1)
        if is_new:
            self.row.offsets[message.source] = message.offset
            self.row.until_ms = max(self.row.until_ms, message.time_ms)
        if isinstance(message.event, Recommendation):
            if (answer := _find_part(message.event, self._scope.rollout_id)) is not None:
                self._apply_recommendation(answer, message.time_ms, is_new)
        elif isinstance(message.event, Impression):
            self._apply_impression(message.event, message.time_ms, is_new)
        elif message.event is not None:
            self._apply_interaction(message.event, message.time_ms, is_new)

    def _apply_recommendation(self, answer: Recommendation, time_ms: int, is_new: bool) -> None:
        lists = _compared_lists(answer)
        if not lists:
            return
        hashes = {variant: [hash64(item) for item in items] for variant, items in lists.items()}
        recent = self._window.recent_variants(answer.user_id, time_ms)
        made = _make_lists(answer, hashes, recent)
        if self._scope.of_placement:
            # Rules are there to show other items, so neither their scores nor their number count.
            made = {name: replace(each, score=None) for name, each in made.items()}
        served = ServedRecommendation(
            answer.recommendation_id,
            time_ms,
            bucket_of(answer.rollout_id, answer.user_id),
            hashes,
            made,
        )
        counts = self._window.remember(answer.user_id, served) and self._window.may_count_answer(
            answer.user_id, time_ms
        )
        if counts and is_new:
            for variant, each in made.items():
                self._count_list(variant, each)

    def _apply_impression(self, event: Impression, time_ms: int, is_new: bool) -> None:
        """Count a list as seen, up to the place that was seen."""
        seen = self._window.see(event, time_ms)
        if seen is None or not is_new:
            return
        for variant, made in seen.served.made.items():
            first, items = variant not in seen.recent, made.items[: event.position + 1]
            self._count_list(name_seen(variant), replace(made, items=items, first=first))

    def _count_list(self, name: str, made: VariantList) -> None:
        self.row.variant(name).add_list(replace(made, covers=self._covers(name, made)))

    def _covers(self, variant: str, made: VariantList) -> bool:
        """Whether a list's items count as shown: as many lists of a variant as of the other.

        More lists show more items, whoever makes them; and one person's are alike.
        """
        if not made.first or made.failed or self._scope.of_placement:
            return False
        other = self.row.counters.get(_COMPARED_WITH.get(variant, ""))
        covered = self.row.variant(variant).counts["covers"]
        return covered <= (other.counts["covers"] if other else 0)

    def _apply_interaction(self, event: Interaction, time_ms: int, is_new: bool) -> None:
        for credit in find_credits(
            self._window, event, time_ms, of_placement=self._scope.of_placement
        ):
            if is_new:
                reward = self._rewards[credit.event_code] * credit.discount
                name = name_seen(credit.variant) if credit.of_seen else credit.variant
                self.row.variant(name).add_reward(credit.bucket, reward, credit.event_code)


def find_rewards(purchase_reward: float) -> dict[int, float]:
    """What an event of each type earns, by its code."""
    named = {CLICK.code: 1.0, PURCHASE.code: purchase_reward}
    return {spec.code: named.get(spec.code, spec.reward) for spec in EVENT_TYPES.values()}


def find_credits(
    window: AttributionWindow, event: Interaction, time_ms: int, *, of_placement: bool
) -> list[Credit]:
    """What an event earns the lists of a window.

    Args:
        of_placement: the window has lists of one placement alone: what was clicked in another place
            is none of its.
    """
    if not EVENT_TYPES.spec_of(event).reward:
        return []
    named = event.recommendation_id
    if of_placement and named and not window.holds(event.user_id, named):
        return []
    return window.attribute(event, time_ms)


def _find_part(answer: Recommendation, rollout_id: str) -> Recommendation | None:
    """A list as the rollout sees it; None for a list that is no part of it.

    A list may be part of two: of a model's rollout, and of its placement's.
    """
    trial = answer.trial
    if trial is None or trial.rollout_id != rollout_id:
        return answer if answer.rollout_id == rollout_id else None
    return structs.replace(
        answer,
        rollout_id=rollout_id,
        variant=trial.variant,
        failed=trial.failed,
        latency_ms=trial.latency_ms,
        shadow=trial.shadow,
    )


def _make_lists(
    answer: Recommendation, lists: Mapping[str, Sequence[Hash]], recent: set[str]
) -> dict[str, VariantList]:
    """The list that was shown, and the shadow's, by variant.

    Args:
        lists: their items.
        recent: variants that made a list for this person just before.
    """
    made = {}
    bucket = bucket_of(answer.rollout_id, answer.user_id)
    person = bit_of(answer.rollout_id, answer.user_id)
    if (shadow := answer.shadow) is not None:
        made[Variant.SHADOW.value] = VariantList(
            bucket,
            lists[Variant.SHADOW],
            score=shadow.score,
            latency_ms=shadow.latency_ms,
            failed=bool(shadow.failed),
            short=shadow.missing > 0,
            first=Variant.SHADOW not in recent,
            person=person,
        )
    made[answer.variant] = VariantList(
        bucket,
        lists[answer.variant],
        score=None if answer.fallback or not answer.items else answer.items[0].score,
        latency_ms=answer.latency_ms,
        failed=bool(answer.failed),
        fallback=answer.fallback,
        short=answer.missing > 0,
        first=answer.variant not in recent,
        person=person,
    )
    return made


def _compared_lists(answer: Recommendation) -> dict[str, list[str]]:
    """The item ids by variant: of a canary or its baseline, of a shadow beside what was shown."""
    shown = [item.item_id for item in answer.items]
    if answer.variant in (Variant.CANARY, Variant.BASELINE):
        return {answer.variant: shown}
    # Beside a shadow everyone sees the stable version: another name is nobody's, and would make the
    # row grow with each that is made up.
    if answer.shadow is not None and answer.variant == Variant.STABLE:
        return {answer.variant: shown, Variant.SHADOW: answer.shadow.items}
    return {}


@dataclass
class _Source(Generic[Value]):
    """Waiting messages; all from before the watermark have been added."""

    waiting: deque[tuple[int, Value]] = field(default_factory=deque)
    watermark_ms: int = -1


class TimeOrderedMerge(Generic[Value]):
    """Merges sources that are each ordered by the broker's time.

    What was recommended before a click decides on whom the click is credited to, so a replay has to
    see both in the same order, although they are fetched in another.

    Args:
        sources: their names; of messages of the same millisecond the first source's go first.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources: dict[str, _Source[Value]] = {name: _Source() for name in sources}

    def add(self, source: str, time_ms: int, value: Value) -> None:
        """Add the next message of a source."""
        self._sources[source].waiting.append((time_ms, value))

    def advance_watermark(self, source: str, time_ms: int) -> None:
        """Say that a source has no more messages from before this time."""
        waiting = self._sources[source]
        waiting.watermark_ms = max(waiting.watermark_ms, time_ms)

    def pop_ready(self) -> Iterator[Value]:
        """Take out the messages that no other source can precede any more."""
        while (source := self._next_source()) is not None:
            yield source.waiting.popleft()[1]

    def _next_source(self) -> _Source[Value] | None:
        """The source with the oldest message, once no other can still have an older one."""
        oldest = min(
            (source for source in self._sources.values() if source.waiting),
            key=lambda source: source.waiting[0][0],
            default=None,
        )
        if oldest is None:
            return None
        time_ms = oldest.waiting[0][0]
        idle = (source for source in self._sources.values() if not source.waiting)
        return oldest if all(source.watermark_ms > time_ms for source in idle) else None
