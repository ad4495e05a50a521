"""Placements and segments: what lists are made by, and which of what was written counts."""

import re
from collections.abc import Collection

from headwater_client import EventError
from headwater_client.contract import PlacementAnswer, PlacementRules, SegmentAnswer, SegmentRules

from features.rules.compiler import SEGMENT
from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.plans import check_rules, find_conditions
from features.rules.segments import compile_segment

SEGMENT_PREFIX = "segment/"
Rules = PlacementRules | SegmentRules
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_placement(
    name: str,
    placement: PlacementRules,
    attributes: Collection[str] | None = None,
    segments: Collection[str] | None = None,
) -> None:
    """Refuse a placement that nobody could use.

    Args:
        attributes, segments: those that there are; None: it is not known.

    Raises:
        EventError: its name is none, or an attribute is none.
        RuleError: an expression cannot be used, with its field and column.
    """
    _check_name(name)
    check_rules(placement, attributes, segments)


def check_segment(name: str, segment: SegmentRules) -> None:
    """Refuse a segment that nobody could use.

    Raises:
        EventError: its name is none.
        RuleError: its condition cannot be used, with its field and column.
    """
    _check_name(name)
    try:
        compile_segment(segment.filter)
    except RuleError as error:
        error.field = "filter"
        raise


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise EventError("name", name, "expected 1 to 64 small letters, digits, - and _")


class PlacementTable:
    """The placements and segments that count.

    Attributes:
        known: placements by name.
        segments: by name.
    """

    def __init__(self) -> None:
        self.known: dict[str, PlacementAnswer] = {}
        self.segments: dict[str, SegmentAnswer] = {}
        self._newest: dict[str, int] = {}

    def newest(self, key: str) -> int:
        """The revision of the newest message of a key that counts; -1 where there was none."""
        return self._newest.get(key, -1)

    def take(
        self, key: str, rules: Rules | None, revision: int, follows: int | None = None
    ) -> bool:
        """Take what was written of a placement or a segment; whether it counts.

        What is older than what is known changes nothing, nor what was written by somebody who did
        not know what is known.

        Args:
            rules: None: it was removed.
            follows: the revision that its writer knew as the newest; None: it is not said.
        """
        newest = self.newest(key)
        if revision <= newest or (follows is not None and follows < newest):
            return False
        self._newest[key] = revision
        name = key.removeprefix(SEGMENT_PREFIX)
        if key.startswith(SEGMENT_PREFIX):
            self.segments.pop(name, None)
        else:
            self.known.pop(name, None)
        if isinstance(rules, SegmentRules):
            self.segments[name] = SegmentAnswer(name=name, revision=revision, segment=rules)
        elif rules is not None:
            self.known[name] = PlacementAnswer(name=name, revision=revision, placement=rules)
        return True

    def find_users(self, segment: str) -> list[str]:
        """The placements that ask for a segment."""
        return [
            name
            for name, placed in sorted(self.known.items())
            if any(
                mention.root == SEGMENT and mention.name == segment
                for _, text in find_conditions(placed.placement)
                for mention in compile_filter(text).mentions
            )
        ]


def can_be_key(key: str) -> bool:
    """Whether a placement or a segment can have messages of this key.

    >>> [can_be_key(key) for key in ("home", "segment/vips", "x" * 1000)]
    [True, True, False]
    """
    return bool(_NAME.fullmatch(key.removeprefix(SEGMENT_PREFIX)))


def segment_key(name: str) -> str:
    """The key of a segment's messages: no placement can be called so."""
    return f"{SEGMENT_PREFIX}{name}"
