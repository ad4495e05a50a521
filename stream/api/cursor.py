"""Cursors of pages: each carries what was shown, so that no process has to remember it.

    | format 1 | page | of what, 8 bytes | the items of all pages so far, 8 bytes each | check, 8 |

An item is named by its hash, as in rows. So a later page repeats nothing, whatever has become of
the row, the model or the service since. The check finds damage and what was made up; it is no
secret, for a cursor can do no more than `exclude` can.
"""

import hashlib
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from headwater_client import EventError
from headwater_client.contract import MAX_PAGES, RecommendationQuery

from features.topics import Hash, hash64

_FORMAT = 1
_HEAD = struct.Struct("<BBq")
_CHECK_BYTES, _ITEM_BYTES = 8, 8
_FIRST = "expected a cursor of an answer to the same question: ask without one for the first page"


class PageCursor(NamedTuple):
    """Where a caller is in a list of several pages.

    Attributes:
        question: names what is asked: of whom, for which placement, with which filter, of which
            candidates.
        page: pages that were answered.
        shown: the items of these.
    """

    question: Hash
    page: int = 0
    shown: tuple[Hash, ...] = ()

    def encode(self) -> str:
        """The cursor as a text for URLs and JSON.

        >>> PageCursor.decode(PageCursor(Hash(7), 1, (Hash(-5),)).encode(), Hash(7)).shown
        (-5,)
        """
        head = _HEAD.pack(_FORMAT, self.page, self.question)
        content = head + struct.pack(f"<{len(self.shown)}q", *self.shown)
        return urlsafe_b64encode(content + _check(content)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, question: Hash) -> "PageCursor":
        """A cursor that was answered to the same question.

        Raises:
            EventError: it is none, it is of another question, or it is damaged.
        """
        try:
            whole = b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except ValueError as error:
            raise EventError("cursor", text, _FIRST) from error
        content, check = whole[:-_CHECK_BYTES], whole[-_CHECK_BYTES:]
        items = content[_HEAD.size :]
        is_whole = len(content) >= _HEAD.size and len(items) % _ITEM_BYTES == 0
        if not is_whole or check != _check(content) or content[0] != _FORMAT:
            raise EventError("cursor", text, _FIRST)
        _, page, asked = _HEAD.unpack_from(content)
        if asked != question:
            other = "is of another person, placement, filter or candidates"
            raise EventError("cursor", text, f"{other}: {_FIRST}")
        shown = struct.unpack(f"<{len(items) // _ITEM_BYTES}q", items)
        return cls(question, page, tuple(map(Hash, shown)))

    def turn(self, item_ids: Iterable[str]) -> str:
        """The cursor of the page after the one with these items; "" where it was the last."""
        if self.page + 1 >= MAX_PAGES:
            return ""
        shown = (*self.shown, *map(hash64, item_ids))
        return PageCursor(self.question, self.page + 1, shown).encode()


def read_cursor(query: RecommendationQuery) -> PageCursor:
    """Where a request is in its list.

    Raises:
        EventError: its cursor is none of an answer to it.
    """
    of_what: list[object] = [query.person, query.guest, query.placement, query.filter]
    if query.candidates is not None:
        of_what.append(query.candidates)
    question = hash64(msgspec.json.encode(of_what).decode())
    if query.cursor is None:
        return PageCursor(question)
    return PageCursor.decode(query.cursor, question)


def _check(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK_BYTES, person=b"headwater").digest()
