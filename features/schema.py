"""The feature schema: how many counters a row has, what they mean, and which names columns have."""

from __future__ import annotations

import json

from headwater_client.event_types import EVENT_TYPES

from features.settings import FeatureSettings

FOREVER = float("inf")


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
    def fingerprint(self) -> str:
        """The settings as text, the same for the same settings. Stores are marked with it."""
        return json.dumps(self.settings.stored(), sort_keys=True)

    @property
    def trending_index(self) -> int:
        """Which of the items' half-lives trending items are ranked by."""
        return self.settings.item_half_lives_ms.index(self.settings.trending_half_life_ms)

    @property
    def user_counters(self) -> int:
        """Length of a user row's counters: event types x half-lives."""
        return len(self.event_codes) * len(self.user_half_lives)
