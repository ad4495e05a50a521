"""Who has become whom, and who is to be forgotten: a worker does it, once Kafka has it."""

import asyncio
from contextlib import suppress
from uuid import uuid4

from headwater_client import ServerError, contract, encode
from headwater_client.identities import Merge, decode_identity
from headwater_client.topics import PEOPLE

from features.events import current_ms
from features.topics import hash64
from stream import erasure_receipt
from stream.api.intake import TopicMessage, identity_message
from stream.api.parts import ApiCall, Operations
from stream.api.problems import refuse
from stream.api.undelivered import refuse_undelivered
from stream.row_updates import RowView


class IdentityOperations(Operations):
    """Merge guests into members, and forget people."""

    async def merge_guest(self, call: ApiCall) -> contract.MergeAnswer:
        """Send to Kafka that a guest has become a member.

        Raises:
            EventError: an id is none that a person can have.
            RequestError: they have become somebody else, or Kafka does not take it.
        """
        query: contract.MergeQuery = call.body
        said = {"merge_id": query.merge_id or uuid4().hex, "member": query.member}
        guest = call.path["guest"]
        merge = decode_identity(encode({"type": "merge", "guest": guest, **said}))
        assert isinstance(merge, Merge)
        for field in ("guest", "member"):
            self._parts.intake.check_person(getattr(merge, field), field)
        await self._check_free(merge)
        offsets = await self._send(identity_message(merge))
        return contract.MergeAnswer(merge_id=merge.merge_id, place=offsets)

    async def _check_free(self, merge: Merge) -> None:
        """Refuse a merge that a worker would pass over; where the store is away, it decides alone.

        Raises:
            RequestError: the guest has become somebody else, or the member has become the guest.
        """
        merges = None
        with suppress(TimeoutError, ServerError):
            async with asyncio.timeout(self._parts.deadline_s):
                (row,) = await self._parts.rows.read([RowView(merge.guest)])
                merges = row.merges
        if merges is None:
            return
        into = merges.into.merge.member if merges.into else merge.member
        if into != merge.member:
            raise refuse("conflict", f"{merge.guest[:80]} has become {into[:80]} before")
        if hash64(merge.member) in merges.absorbed:
            raise refuse("conflict", f"{merge.member[:80]} has become {merge.guest[:80]} before")

    async def erase_person(self, call: ApiCall) -> contract.ErasureAnswer:
        """Send to Kafka that a person is to be forgotten.

        Raises:
            EventError: the id is none that a person can have.
            RequestError: Kafka does not take it.
        """
        person, name = call.path["person"], uuid4().hex
        said = {"type": "erasure", "erasure_id": name, "user_id": person}
        erasure = decode_identity(encode(said))
        offsets = await self._send(identity_message(erasure), TopicMessage(PEOPLE, person, None))
        try:
            retention = await asyncio.to_thread(self._parts.read_retention, erasure_receipt.TOPICS)
        except ServerError:
            # What was asked for is done: that Kafka is away now is no reason to send it again.
            retention = {}
        places = erasure_receipt.list_places(current_ms(), retention)
        return contract.ErasureAnswer(
            person=person, erasure_id=name, offsets=offsets, places=places
        )

    async def _send(self, *messages: TopicMessage) -> dict[str, int]:
        """Send messages; where they stand."""
        delivered = await self._parts.publisher.publish(messages)
        for message, one in zip(messages, delivered, strict=True):
            if one.problem:
                raise refuse_undelivered(one, message)
        return {
            f"{message.topic}/{one.partition}": one.offset
            for message, one in zip(messages, delivered, strict=True)
        }
