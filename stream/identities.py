"""Who becomes whom, and who is forgotten: what the messages of `identities` change, and lead to.

What a message leads to (a hand-over, what is sent on) is made from rows that are written, so a
message that is read again leads to the same. What was read again from below what is delivered
leads to nothing: that is in the log.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog
from headwater_client import EventError, Interaction, encode, identities
from headwater_client.events import MAX_ID
from msgspec import Raw
from msgspec.structs import replace

from features import columns, merging
from features.columns import CatalogueEntry, DamagedRowError
from features.events import current_ms
from features.rows import UserRow, apply_event, empty_user, observation, recover_user
from features.schema import FeatureSchema, RowMark
from features.shown import forget_shown
from features.store import USERS, VERSION, RowRead, RowStore, RowWrite, set_aside
from features.topics import Hash
from stream import metrics
from stream.catalogue import CatalogueCache
from stream.row_updates import ConsumerRecord

log = structlog.get_logger()


class IdentityRecord(NamedTuple):
    """A valid message and its place in Kafka.

    Attributes:
        arrived_ms: when Kafka took it.
        event: that of a `SentOn`.
        answered: it is read again, and what it leads to is in the log.
    """

    message: identities.IdentityMessage
    source: Hash
    offset: int
    arrived_ms: int
    event: Interaction | None = None
    answered: bool = False

    @property
    def is_request(self) -> bool:
        """Whether it asks for a row as it is once all before it was read."""
        return isinstance(self.message, identities.Merge | identities.Erasure)


class IdentityReader:
    """Reads messages of `identities`.

    Args:
        schema: of the rows.
        check_person: refuses an id that stands for nobody, of a field.
    """

    def __init__(self, schema: FeatureSchema, check_person: Callable[[str, str], None]) -> None:
        self._schema = schema
        self._mark = RowMark(schema.row_mark)
        self._check_person = check_person

    def read(
        self, key: bytes | None, value: bytes | None
    ) -> tuple[identities.IdentityMessage, Interaction | None]:
        """A message, and the event of one that was sent on.

        Raises:
            EventError: it breaks the contract.
        """
        message = identities.decode_identity(value)
        name = (key or b"").decode(errors="replace")
        if name != identities.key_of(message):
            raise EventError(
                "<key>", name or "<empty>", f"expected {identities.key_of(message)[:MAX_ID]!r}"
            )
        if isinstance(message, identities.Merge):
            for field in ("guest", "member"):
                self._check_person(getattr(message, field), field)
        if isinstance(message, identities.HandOver):
            self._check_row(message)
        return message, identities.decode_sent_on(message) if isinstance(
            message, identities.SentOn
        ) else None

    def _check_row(self, message: identities.HandOver) -> None:
        if not RowMark(message.features).fits(self._mark):
            raise EventError("features", message.features, "is a row of other settings: features")
        try:
            merging.decode_handed_row(message, self._schema)
        except (DamagedRowError, KeyError) as error:
            raise EventError("row", "<columns>", f"is no row: {error}") from error


class IdentityUpdater:
    """Lets messages change people's rows, each once; safe beside others that write them.

    Args:
        catalogue: what an event counts under.
    """

    def __init__(self, store: RowStore, schema: FeatureSchema, catalogue: CatalogueCache) -> None:
        self._store = store
        self._schema = schema
        self._catalogue = catalogue

    async def apply(self, batch: Sequence[IdentityRecord]) -> list[identities.IdentityMessage]:
        """Apply a batch, each source's messages in order; what it leads to, to be sent.

        Raises:
            ServerError: the store does not answer. Nothing is lost by applying the batch again.
        """
        items = {record.event.item_id for record in batch if record.event}
        while True:
            rows = await self._read(
                dict.fromkeys(identities.key_of(record.message) for record in batch)
            )
            versions = {name: version for name, (_, version) in rows.items()}
            people = {name: row for name, (row, _) in rows.items()}
            changed, leads_to = self._change(batch, people, await self._catalogue.get(items))
            writes = [
                RowWrite(
                    USERS,
                    name,
                    columns.encode_user(row),
                    row.reference_ms,
                    VERSION,
                    versions[name],
                )
                for name, row in changed.items()
            ]
            if all(await self._store.write(writes)):
                await self._forget_shown(batch)
                return leads_to
            metrics.CONFLICTS.inc()

    async def _forget_shown(self, batch: Sequence[IdentityRecord]) -> None:
        erased = [each for each in batch if isinstance(each.message, identities.Erasure)]
        if erased:
            await self._store.append(
                [forget_shown(identities.key_of(each.message), each.arrived_ms) for each in erased]
            )

    async def _read(self, names: Mapping[str, None]) -> dict[str, tuple[UserRow, bytes | None]]:
        reads, rows = [RowRead(USERS, name, USERS.columns) for name in names], {}
        for read, stored in zip(reads, await self._store.read(reads), strict=True):
            try:
                row = columns.decode_user(stored, self._schema)
            except DamagedRowError as error:
                await set_aside(self._store, read, stored, error)
                row = empty_user(self._schema)
            recover_user(row, current_ms(), self._schema)
            rows[read.entity_id] = row, stored[VERSION]
        return rows

    def _change(
        self,
        batch: Sequence[IdentityRecord],
        people: Mapping[str, UserRow],
        entries: Mapping[str, CatalogueEntry],
    ) -> tuple[dict[str, UserRow], list[identities.IdentityMessage]]:
        changed, leads_to = dict[str, UserRow](), list[identities.IdentityMessage]()
        for record in batch:
            name = identities.key_of(record.message)
            row = people[name]
            if record.offset > row.offsets.get(record.source, -1):
                apply_identity(row, record, entries, self._schema)
                changed[name] = row
            if not record.answered:
                leads_to += follow_up(row, record, self._schema)
        return changed, leads_to


def apply_identity(
    row: UserRow,
    record: IdentityRecord,
    entries: Mapping[str, CatalogueEntry],
    schema: FeatureSchema,
) -> None:
    """Let a message that its row has not absorbed change it, in place.

    Args:
        entries: of the item of an event that was sent on.
    """
    match record.message:
        case identities.Merge() as merge:
            merging.mark_merged(row, merge, record.arrived_ms)
        case identities.HandOver() as handed:
            merging.absorb_hand_over(row, handed, schema)
        case identities.Erasure() as erasure:
            row.offsets[record.source] = record.offset
            merging.erase_row(row, erasure, record.arrived_ms, schema)
        case identities.Erased() as erased:
            merging.pass_over_erased(row, erased)
        case identities.SentOn() as sent if not (
            row.merges and row.merges.forgets(sent.arrived_time)
        ):
            event = record.event
            assert event is not None
            found = entries[event.item_id].category_hashes
            seen = observation(event, record.source, record.offset, found)
            apply_event(row, seen, schema)
    row.offsets[record.source] = record.offset


def follow_up(
    row: UserRow, record: IdentityRecord, schema: FeatureSchema
) -> Iterator[identities.IdentityMessage]:
    """What a message leads to, once the row that it has changed is written."""
    message, into = record.message, row.merges.into if row.merges else None
    if isinstance(message, identities.Erasure):
        if erased := merging.make_erased(row, message):
            yield erased
        return
    if not into:
        return
    if isinstance(message, identities.Merge):
        if message == into.merge:
            yield merging.make_hand_over(into, schema)
    elif isinstance(message, identities.HandOver | identities.SentOn):
        passed_by = (
            [message.guest, *message.by] if isinstance(message, identities.HandOver) else message.by
        )
        is_round = into.merge.member in passed_by or len(message.by) >= identities.MAX_HOPS
        if not is_round and merging.is_sent_on(row, record.source, record.offset):
            yield _pass_on(message, record.event, into.merge.member)


def _pass_on(
    message: "identities.HandOver | identities.SentOn", event: Interaction | None, member: str
) -> "identities.HandOver | identities.SentOn":
    by = [*message.by, message.user_id]
    if isinstance(message, identities.HandOver) or event is None:
        return replace(message, user_id=member, by=by)
    raw = Raw(encode(replace(event, user_id=member)))
    return replace(message, user_id=member, event=raw, by=by)


def send_on(
    records: Sequence[ConsumerRecord], rows: Mapping[str, UserRow]
) -> Iterator[identities.SentOn]:
    """The events of a batch whose people had become somebody else, under that one's id.

    Args:
        rows: as they were written with the batch.
    """
    for record in records:
        event, row = record.event, rows[record.event.user_id]
        if record.answered or not merging.is_sent_on(row, record.source, record.offset):
            continue
        assert row.merges is not None
        assert row.merges.into is not None
        member = row.merges.into.merge.member
        yield identities.SentOn(
            user_id=member,
            topic=record.column.rpartition("_")[0],
            event=Raw(encode(replace(event, user_id=member))),
            arrived_time=record.arrived_ms,
            by=[event.user_id],
        )
