"""The feature schema: how many counters a row has, and what they mean."""

from __future__ import annotations

import json

from headwater_client.event_types import EVENT_TYPES

from features.contract import SCHEMA_VERSION, Contract
from features.settings import FeatureSettings

FOREVER = float("inf")
CATEGORY_BUCKETS = 32


class FeatureSchema:
    """How many counters a row has and what they mean; derived from the settings once.

    Every set of half-lives ends with an infinite one: the plain count, exact as long as counts
    stay below 2**53.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.user_half_lives = (*map(float, settings.user_half_lives_ms), FOREVER)
        self.category_half_lives = tuple(map(float, settings.category_half_lives_ms))
        self.item_half_lives = (*map(float, settings.item_half_lives_ms), FOREVER)
        self.event_codes = EVENT_TYPES.codes
        self.weight = settings.weights()
        self.seen_by = frozenset(EVENT_TYPES[name].code for name in settings.seen_by)

    @property
    def contract(self) -> Contract:
        """What a model that is trained on these rows expects."""
        return Contract(
            schema_version=SCHEMA_VERSION,
            event_types=tuple(EVENT_TYPES),
            history_length=self.settings.history_length,
            user_half_lives_ms=self.settings.user_half_lives_ms,
            category_half_lives_ms=self.settings.category_half_lives_ms,
            item_half_lives_ms=self.settings.item_half_lives_ms,
        )

    @property
    def row_mark(self) -> str:
        """What a store with rows of this schema is marked with: JSON of all that changes rows."""
        mark = {"schema_version": SCHEMA_VERSION, "event_types": tuple(EVENT_TYPES)}
        return json.dumps(mark | self.settings.stored(), sort_keys=True)

    @property
    def trending_index(self) -> int:
        """Which of the items' half-lives trending items are ranked by."""
        return self.settings.item_half_lives_ms.index(self.settings.trending_half_life_ms)

    @property
    def user_counters(self) -> int:
        """Length of a user row's counters: event types x half-lives."""
        return len(self.event_codes) * len(self.user_half_lives)

    @property
    def user_feature_count(self) -> int:
        """How many features the model reads of a person: a counter each, and category buckets."""
        return self.user_counters + CATEGORY_BUCKETS

    @property
    def trend_count(self) -> int:
        """How many half-lives an item's popularity is decayed by; the plain count is left out."""
        return len(self.item_half_lives) - 1


class RowMark:
    """What a store is marked with: the schema of the rows that are in it.

    A mark of release 0.1.0 says neither the version of the schema nor the types of events: both
    are the first.
    """

    def __init__(self, text: str) -> None:
        try:
            self._described = _FIRST_MARK | json.loads(text)
        except (ValueError, TypeError):
            self._described = {}

    def fits(self, other: RowMark) -> bool:
        """Whether whoever writes rows of another mark can read these.

        All that changes rows has to be the same. Types of events may have been added since: rows
        get counters of them when they are read.
        """
        mine, others = dict(self._described), dict(other._described)
        types, more = mine.pop("event_types", None), others.pop("event_types", None)
        return mine == others and types is not None and more[: len(types)] == types

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowMark) and self._described == other._described

    def __hash__(self) -> int:
        return hash(json.dumps(self._described, sort_keys=True))


_FIRST_MARK = {"schema_version": 1, "event_types": ["click", "purchase"]}
