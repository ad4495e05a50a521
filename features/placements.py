"""Placements and segments: what lists are made by, and which of what was written counts."""

import re
from collections.abc import Collection

from headwater_client import EventError
from headwater_client.contract import PlacementAnswer, PlacementRules, SegmentAnswer, SegmentRules

from features.rules.compiler import SEGMENT
from features.rules.filters import compile_filter
from features.rules.plans import check_rules, find_conditions
from features.rules.segments import compile_segment

SEGMENT_PREFIX = "segment/"
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
        RuleError: its condition cannot be used, with the column.
    """
    _check_name(name)
    compile_segment(segment.filter)


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

    def take(self, name: str, placement: PlacementRules | None, revision: int) -> None:
        """Take what was written of a placement; what is older than what is known changes nothing.

        Args:
            placement: None: it was removed.
        """
        if revision <= self._newest.get(name, -1):
            return
        self._newest[name] = revision
        if placement is None:
            self.known.pop(name, None)
        else:
            made = PlacementAnswer(name=name, revision=revision, placement=placement)
            self.known[name] = made

    def take_segment(self, name: str, segment: SegmentRules | None, revision: int) -> None:
        """Take what was written of a segment; as `take`."""
        if revision <= self._newest.get(segment_key(name), -1):
            return
        self._newest[segment_key(name)] = revision
        if segment is None:
            self.segments.pop(name, None)
        else:
            made = SegmentAnswer(name=name, revision=revision, segment=segment)
            self.segments[name] = made

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


def segment_key(name: str) -> str:
    """The key of a segment's messages: no placement can be called so."""
    return f"{SEGMENT_PREFIX}{name}"
