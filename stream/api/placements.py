"""Placements and segments: what they are now, how they are changed, and how a change is tried."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from headwater_client import EventError, HeadwaterError, contract, encode
from headwater_client.topics import PLACEMENTS

from features.placement_topic import OvertakenError
from features.placements import Rules, check_placement, check_segment, segment_key
from features.rules.errors import RuleError
from stream.api.filters import describe_rule
from stream.api.intake import TopicMessage
from stream.api.parts import ApiCall, Operations
from stream.api.problems import refuse
from stream.api.undelivered import refuse_undelivered

KnownT = TypeVar("KnownT")


class PlacementOperations(Operations):
    """List and change placements and segments, and try changes out."""

    async def list_placements(self, _: ApiCall) -> contract.PlacementsAnswer:
        """All placements, by name."""
        known = self._parts.placements.known
        return contract.PlacementsAnswer(placements=[known[name] for name in sorted(known)])

    async def get_placement(self, call: ApiCall) -> contract.PlacementAnswer:
        """One placement.

        Raises:
            RequestError: there is none of this name.
        """
        return _find_known("placement", call.path["name"], self._parts.placements.known)

    async def put_placement(self, call: ApiCall) -> contract.PlacementAnswer:
        """Send a placement to Kafka; this service follows it at once.

        Raises:
            EventError, RequestError: it could not be used, or as of `_change`.
        """
        name, placement = call.path["name"], call.body
        self._check_placement(name, placement)
        revision = await self._change(name, placement)
        return contract.PlacementAnswer(name=name, revision=revision, placement=placement)

    async def delete_placement(self, call: ApiCall) -> contract.RemovalAnswer:
        """Tell Kafka that a placement is no more; this service follows it at once.

        Raises:
            RequestError: there is none of this name, or as of `_change`.
        """
        name = call.path["name"]
        _find_known("placement", name, self._parts.placements.known)
        return contract.RemovalAnswer(name=name, revision=await self._change(name, None))

    async def list_segments(self, _: ApiCall) -> contract.SegmentsAnswer:
        """All segments, by name."""
        known = self._parts.placements.segments
        return contract.SegmentsAnswer(segments=[known[name] for name in sorted(known)])

    async def get_segment(self, call: ApiCall) -> contract.SegmentAnswer:
        """One segment.

        Raises:
            RequestError: there is none of this name.
        """
        return _find_known("segment", call.path["name"], self._parts.placements.segments)

    async def put_segment(self, call: ApiCall) -> contract.SegmentAnswer:
        """Send a segment to Kafka; this service follows it at once.

        Raises:
            EventError, RequestError: it could not be used, or as of `_change`.
        """
        name, segment = call.path["name"], call.body
        _check(check_segment, name, segment)
        revision = await self._change(segment_key(name), segment)
        return contract.SegmentAnswer(name=name, revision=revision, segment=segment)

    async def delete_segment(self, call: ApiCall) -> contract.RemovalAnswer:
        """Tell Kafka that a segment is no more; this service follows it at once.

        Raises:
            EventError: a placement asks for it.
            RequestError: there is none of this name, or as of `_change`.
        """
        name, placements = call.path["name"], self._parts.placements
        _find_known("segment", name, placements.segments)
        if users := placements.find_users(name):
            raise EventError(
                "name", name, f"is asked for by {', '.join(users)}: change these first"
            )
        revision = await self._change(segment_key(name), None)
        return contract.RemovalAnswer(name=name, revision=revision)

    async def try_placement(self, call: ApiCall) -> contract.TrialAnswer:
        """Ask the controller to try other rules out, and wait for its answer.

        Raises:
            EventError, RequestError: they could not be used, or the controller refuses.
            ServerError: no controller answers.
        """
        name, query = call.path["name"], call.body
        _find_known("placement", name, self._parts.placements.known)
        self._check_placement(name, query.rules, "rules.")
        return await self._parts.trial_desk.begin(name, query, call.key.name)

    async def steer_trial(self, call: ApiCall) -> contract.TrialAnswer:
        """Ask the controller to end, pause or resume a placement's trial, and wait for its answer.

        Raises:
            EventError: no placement can be called so.
            RequestError: there is no such action, or the controller refuses.
            ServerError: no controller answers.
        """
        actions = {each.value: each for each in contract.TrialAction}
        if (action := actions.get(call.path["action"])) is None:
            there = f"there are {', '.join(actions)}"
            raise refuse("not-found", f"no action is named {call.path['action'][:64]!r}", there)
        self._check_placement(call.path["name"], contract.PlacementRules())
        return await self._parts.trial_desk.steer(
            call.path["name"], action, call.body, call.key.name
        )

    async def list_trials(self, call: ApiCall) -> contract.TrialsAnswer:
        """What was tried out of a placement, newest first, as the topic `rollouts` has it.

        Raises:
            EventError: no placement can be called so.
            ServerError: Kafka does not answer.
        """
        name = call.path["name"]
        self._check_placement(name, contract.PlacementRules())
        return await self._parts.trial_desk.read(name)

    def _check_placement(
        self, name: str, placement: contract.PlacementRules, before: str = ""
    ) -> None:
        """Refuse a placement that could not be used.

        Args:
            before: what stands before the names of its fields.

        Raises:
            EventError, RequestError: so it is.
        """
        attributes = self._parts.items.table.attributes
        known = attributes, self._parts.placements.segments
        try:
            _check(check_placement, name, placement, *known, before=before)
        except EventError as error:
            if error.field == "name":
                raise
            raise EventError(f"{before}{error.field}", error.value, error.expected) from error

    async def _change(self, key: str, rules: Rules | None) -> int:
        """Write a placement or a segment, and follow it; the revision.

        Raises:
            RequestError: Kafka does not take it, or somebody has changed it at the same moment.
        """
        written, value = self._parts.placement_log, None if rules is None else encode(rules)
        try:
            headers = written.reader.make_headers(key, value)
        except HeadwaterError as error:
            raise refuse("conflict", str(error)) from error
        message = TopicMessage(PLACEMENTS, key, value, headers)
        (delivered,) = await self._parts.publisher.publish([message])
        if delivered.problem:
            raise refuse_undelivered(delivered, message)
        async with asyncio.timeout(self._parts.deadline_s):
            await written.reach(delivered.offset)
        try:
            written.reader.check_written(key, delivered.offset)
        except OvertakenError as error:
            raise refuse("conflict", str(error)) from error
        return delivered.offset


def _check(check: Callable[..., None], name: str, *rules: Any, before: str = "") -> None:
    """Refuse what could not be used.

    Raises:
        EventError, RequestError: so it is; an expression with its column.
    """
    try:
        check(name, *rules)
    except RuleError as error:
        raise describe_rule(error, f"{before}{error.field}") from error


def _find_known(what: str, name: str, known: Mapping[str, KnownT]) -> KnownT:
    """What has a name.

    Raises:
        RequestError: nothing has it.
    """
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise refuse("not-found", f"no {what} is named {name[:64]!r}", f"there are {there}")
    return known[name]
