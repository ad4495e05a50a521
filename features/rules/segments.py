"""Segments: people by a named condition over what an app knows of them, and over the context."""

from collections.abc import Iterator, Mapping

from features.rules.compiler import SEGMENT
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.rules.filters import Filter, compile_filter
from features.rules.table import CatalogueTable

# A segment asks for no item.
_NO_ITEMS = CatalogueTable().view()


def compile_segment(text: str) -> Filter:
    """Compile the condition of a segment.

    Raises:
        RuleError: it cannot be used, or asks for an item or another segment; with the column.
    """
    found = compile_filter(text)
    if found.item_position is not None:
        problem = "a segment is of people: expected person.NAME or context.NAME"
        raise RuleError(text, found.item_position, problem)
    for mention in found.mentions:
        if mention.root == SEGMENT:
            raise RuleError(text, mention.position, "a segment asks for no other segment")
    return found


class SegmentValues(Mapping[str, bool]):
    """Whether one person is in each segment: decided for those that are asked for.

    What cannot be decided is false: nothing is known that would put the person in.

    Args:
        segments: their conditions, by name.
        scope: what is known of the person and of the request.
    """

    def __init__(self, segments: Mapping[str, str], scope: Scope) -> None:
        self._segments = segments
        self._scope = scope

    def __getitem__(self, name: str) -> bool:
        found = compile_filter(self._segments[name])
        return found.condition.find(_NO_ITEMS, self._scope, True) is True

    def __iter__(self) -> Iterator[str]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)
