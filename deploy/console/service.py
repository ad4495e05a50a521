"""The operations of the console: those of the API, and those of each area.

What changes something leaves a trace: it is not done before its entry stands on the topic `audit`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from headwater_client import EventError, HeadwaterError
from headwater_client.admin import ADMIN_OPERATIONS
from headwater_client.admin.audit import AuditAnswer, AuditQuery
from headwater_client.operations import OPERATIONS, Operation
from msgspec.structs import asdict, replace

from deploy.console.audit import hide, make_entry
from deploy.console.fairness import FairnessOperations
from deploy.console.forecast import ForecastOperations
from deploy.console.items import ItemOperations
from deploy.console.live import Sampler
from deploy.console.models import ModelOperations
from deploy.console.now import NowOperations
from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.console.people import PersonOperations
from deploy.console.placements import PlacementAreaOperations
from deploy.console.quality import QualityOperations
from deploy.console.rollouts import RolloutOperations
from deploy.console.session import role_of
from deploy.console.showings import ShowingOperations
from deploy.console.signals import SignalOperations
from deploy.settings import Settings
from stream.api.parts import ApiCall
from stream.api.service import ApiService

_TARGET_CHARS = 1000
# A reason has a field of its own; a message may name a person, and the audit is kept for ever.
_NOT_TOLD = ("reason", "text")
ASKED, DONE = "asked", "done"


class AuditOperations(ConsoleOperations):
    """Tell who has changed what."""

    async def list_audit(self, call: ApiCall) -> AuditAnswer:
        """The newest entries, and whether all of them fit together.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: AuditQuery = call.query
        chain = await asyncio.to_thread(self._parts.audit.read)
        newest = list(islice(chain.newest_first, query.limit))
        if not self._parts.may_read_people(call.key):
            newest = [hide(entry) for entry in newest]
        return AuditAnswer(
            entries=newest, count=len(chain.entries), breaks=chain.breaks, digest=chain.digest
        )


class ConsoleService(
    ApiService,
    NowOperations,
    ModelOperations,
    RolloutOperations,
    PlacementAreaOperations,
    PersonOperations,
    ItemOperations,
    ShowingOperations,
    ForecastOperations,
    SignalOperations,
    QualityOperations,
    FairnessOperations,
    AuditOperations,
):
    """All that the console answers, by the names of the operations."""

    operations: Sequence[Operation] = (*OPERATIONS, *ADMIN_OPERATIONS)
    _parts: ConsoleParts

    @property
    def settings(self) -> Settings:
        """All settings."""
        return self._parts.settings

    @property
    def samplers(self) -> Mapping[str, Sampler]:
        """What each area says while somebody looks; nothing that a viewer may not see."""
        return {"now": self.sample_now, "rollouts": self.sample_rollouts}

    def find_work(self, operation: Operation) -> Callable[[ApiCall], Awaitable[Any]]:
        """What answers an operation."""
        work = super().find_work(operation)

        async def act(call: ApiCall) -> Any:
            return await self._leave_trace(operation, call, work)

        return act if operation.is_action else work

    async def _leave_trace(
        self, operation: Operation, call: ApiCall, work: Callable[[ApiCall], Awaitable[Any]]
    ) -> Any:
        """Do what changes something, between two entries of the audit.

        Raises:
            ServerError: the first entry cannot be written: then nothing is done.
        """
        append = self._parts.audit.append
        asked = make_entry(
            action_id=uuid4().hex,
            who=call.key.name,
            role=role_of(call.key),
            operation=operation.name,
            target=_describe_target(call),
            reason=getattr(call.body, "reason", ""),
            outcome=ASKED,
        )
        await asyncio.to_thread(append, asked)
        outcome = "failed: an error of the service"
        try:
            answer = await work(call)
            outcome = DONE
            return answer
        except (HeadwaterError, EventError, TimeoutError) as error:
            outcome = f"failed: {error}"
            raise
        finally:
            await asyncio.to_thread(append, replace(asked, outcome=outcome))


def _describe_target(call: ApiCall) -> str:
    """On what: the names of the path, then the fields of the request; cut where it is long."""
    body = asdict(call.body) if call.body is not None else {}
    said = {name: value for name, value in body.items() if name not in _NOT_TOLD and value}
    text = ", ".join(f"{name}={value!r}" for name, value in {**call.path, **said}.items())
    return text[:_TARGET_CHARS]
