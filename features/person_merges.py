"""What a person's row says of merges: whom the person has become, and who has become them."""

import msgspec
from headwater_client.decoders import get_msgpack_decoder
from headwater_client.identities import Merge
from msgspec import Struct

from features.topics import hash64

# So many newest guests of a person are known again, should their hand-over come twice.
MAX_ABSORBED = 100
# So many newest events are remembered that were taken back and have not arrived.
MAX_WAITING = 16


class MergedInto(Struct, frozen=True, array_like=True):
    """Whom a person has become, and the row as it was then.

    Attributes:
        merge: what said so, and when Kafka took it.
        offsets: up to where the row had absorbed each source. What is beyond is sent on.
        columns: the row, as `features.columns.encode_user` has it.
    """

    merge: Merge
    time_ms: int
    offsets: dict[int, int]
    columns: dict[str, bytes]


class RowErasure(Struct, frozen=True, array_like=True):
    """What has emptied a row: when Kafka took that, and what the row had absorbed by then.

    What Kafka took before is forgotten, whenever it is read.
    """

    erasure_id: str
    time_ms: int
    offsets: dict[int, int]


class TakenBack(Struct, frozen=True, array_like=True):
    """An event that was taken back and has not arrived: another row of the person may have it.

    Attributes:
        code: of its type.
        item: the hash of its item.
        categories: of the item, as what took it back had them.
    """

    code: int
    item: int
    time_ms: int
    categories: tuple[int, ...] = ()


class PersonMerges(Struct, frozen=True, array_like=True):
    """What a person's row says of merges and of its last erasure.

    Attributes:
        into: whom the person has become; None: they are who they were.
        absorbed: by the hash of a guest who has become this person, that of the merge that said so.
        erased: what has emptied the row last.
        waiting: what was taken back and has not arrived.
    """

    into: MergedInto | None = None
    absorbed: dict[int, int] = {}
    erased: RowErasure | None = None
    waiting: tuple[TakenBack, ...] = ()

    def knows(self, merge: Merge) -> bool:
        """Whether the guest's row is in this one."""
        return self.absorbed.get(hash64(merge.guest)) == hash64(merge.merge_id)

    def forgets(self, arrived_ms: int) -> bool:
        """Whether what Kafka took at a time is of who was forgotten."""
        return self.erased is not None and arrived_ms <= self.erased.time_ms


NO_MERGES = PersonMerges()
encode_merges = msgspec.msgpack.Encoder().encode
decode_merges = get_msgpack_decoder(PersonMerges).decode
