"""Who has changed what, and why: the console's trace of actions, and the topic `audit`."""

from typing import Annotated

from msgspec import Meta, Struct

from headwater_client.contract import Scope
from headwater_client.operations import Operation

MAX_REASON_CHARS = 500
ActionReason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_REASON_CHARS,
        pattern=r"\S",
        description="why this is done, for whoever reads the audit",
    ),
]


class ActionQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every action is asked with."""

    reason: ActionReason


class AuditEntry(Struct, frozen=True, kw_only=True):
    """An action, before it is done and after: two entries with one `action_id`.

    `before` is the SHA-256 of the entry before this one, as it stands on the topic: whoever changes
    or removes an entry breaks the chain. `outcome` is `asked` before the action, then `done` or why
    it failed. `target` says on what, by the names of the path and of the request.
    """

    number: int
    time: int
    action_id: str
    who: str
    role: str
    operation: str
    target: str
    reason: str
    outcome: str
    before: str


class AuditAnswer(Struct, frozen=True, kw_only=True):
    """The newest entries first. `breaks` says where the chain is broken, a line each."""

    entries: list[AuditEntry]
    count: int
    breaks: list[str]
    digest: str
    """Of the newest entry: keep it elsewhere, and nobody can write the whole topic anew unseen."""


class AuditQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many entries are asked for."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


OPERATIONS = (
    Operation(
        "list_audit",
        "GET",
        "/v1/admin/audit",
        "Who has changed what at the console, and why",
        AuditAnswer,
        Scope.VIEW,
        query=AuditQuery,
    ),
)
