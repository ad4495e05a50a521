"""Placements and segments: what they are now, and how they are changed."""

from collections.abc import Collection

from headwater_client import EventError, contract, encode
from headwater_client.topics import PLACEMENTS

from features.placements import check_placement, check_segment, segment_key
from features.rules.errors import RuleError
from stream.api.filters import describe_rule
from stream.api.intake import TopicMessage
from stream.api.parts import ApiCall, Operations
from stream.api.problems import refuse
from stream.api.undelivered import refuse_undelivered


class PlacementOperations(Operations):
    """List and change placements and segments."""

    async def list_placements(self, _: ApiCall) -> contract.PlacementsAnswer:
        """All placements, by name."""
        known = self._parts.placements.known
        return contract.PlacementsAnswer(placements=[known[name] for name in sorted(known)])

    async def put_placement(self, call: ApiCall) -> contract.PlacementAnswer:
        """Send a placement to Kafka; this service follows it at once.

        Raises:
            EventError, RequestError: it could not be used, or Kafka does not take it.
        """
        name, placement = call.path["name"], call.body
        try:
            attributes = self._parts.items.table.attributes
            check_placement(name, placement, attributes, self._parts.placements.segments)
        except RuleError as error:
            raise describe_rule(error, error.field) from error
        revision = await self._publish(name, encode(placement))
        self._parts.placements.take(name, placement, revision)
        return contract.PlacementAnswer(name=name, revision=revision, placement=placement)

    async def delete_placement(self, call: ApiCall) -> contract.RemovalAnswer:
        """Tell Kafka that a placement is no more; this service follows it at once.

        Raises:
            RequestError: there is none of this name, or Kafka does not take it.
        """
        name = call.path["name"]
        _check_known("placement", name, self._parts.placements.known)
        revision = await self._publish(name, None)
        self._parts.placements.take(name, None, revision)
        return contract.RemovalAnswer(name=name, revision=revision)

    async def list_segments(self, _: ApiCall) -> contract.SegmentsAnswer:
        """All segments, by name."""
        known = self._parts.placements.segments
        return contract.SegmentsAnswer(segments=[known[name] for name in sorted(known)])

    async def put_segment(self, call: ApiCall) -> contract.SegmentAnswer:
        """Send a segment to Kafka; this service follows it at once.

        Raises:
            EventError, RequestError: it could not be used, or Kafka does not take it.
        """
        name, segment = call.path["name"], call.body
        try:
            check_segment(name, segment)
        except RuleError as error:
            raise describe_rule(error, "filter") from error
        revision = await self._publish(segment_key(name), encode(segment))
        self._parts.placements.take_segment(name, segment, revision)
        return contract.SegmentAnswer(name=name, revision=revision, segment=segment)

    async def delete_segment(self, call: ApiCall) -> contract.RemovalAnswer:
        """Tell Kafka that a segment is no more; this service follows it at once.

        Raises:
            EventError: a placement asks for it.
            RequestError: there is none of this name, or Kafka does not take it.
        """
        name, placements = call.path["name"], self._parts.placements
        _check_known("segment", name, placements.segments)
        if users := placements.find_users(name):
            raise EventError(
                "name", name, f"is asked for by {', '.join(users)}: change these first"
            )
        revision = await self._publish(segment_key(name), None)
        placements.take_segment(name, None, revision)
        return contract.RemovalAnswer(name=name, revision=revision)

    async def _publish(self, key: str, value: bytes | None) -> int:
        """Send a message to the topic; the revision.

        Raises:
            RequestError: Kafka does not take it.
        """
        message = TopicMessage(PLACEMENTS, key, value)
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            raise refuse_undelivered(delivered, message)
        return delivered.offset


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that nothing has.

    Raises:
        RequestError: nothing has it.
    """
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise refuse("not-found", f"no {what} is named {name[:64]!r}", f"there are {there}")
