"""Placements: what the lists of a place are made by, and which of what was written counts."""

import re

from headwater_client import EventError
from headwater_client.contract import PlacementAnswer, PlacementRules

from features.rules.filters import compile_filter

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_placement(name: str, placement: PlacementRules) -> None:
    """Refuse a placement that nobody could use.

    Raises:
        EventError: its name is none.
        RuleError: its filter cannot be used, with the column.
    """
    if not _NAME.fullmatch(name):
        raise EventError("name", name, "expected 1 to 64 small letters, digits, - and _")
    if placement.filter is not None:
        compile_filter(placement.filter)


class PlacementTable:
    """The placements that count.

    Attributes:
        known: by name.
    """

    def __init__(self) -> None:
        self.known: dict[str, PlacementAnswer] = {}
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
