"""Placements: what they are now, and how they are changed."""

from headwater_client import contract, encode
from headwater_client.topics import PLACEMENTS

from features.placements import check_placement
from features.rules.errors import RuleError
from stream.api.filters import describe_rule
from stream.api.intake import TopicMessage
from stream.api.parts import ApiCall, Operations
from stream.api.undelivered import refuse_undelivered


class PlacementOperations(Operations):
    """List and change placements."""

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
            check_placement(name, placement)
            if placement.filter is not None:
                self._parts.items.check_filter(placement.filter)
        except RuleError as error:
            raise describe_rule(error, "filter") from error
        message = TopicMessage(PLACEMENTS, name, encode(placement))
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            raise refuse_undelivered(delivered, message)
        self._parts.placements.take(name, placement, delivered.offset)
        return contract.PlacementAnswer(name=name, revision=delivered.offset, placement=placement)
