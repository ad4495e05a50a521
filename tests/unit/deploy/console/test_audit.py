"""A chain of entries shows where one was changed, removed or added."""

from __future__ import annotations

from hashlib import sha256

from headwater_client import encode
from msgspec.structs import replace

from deploy.console.audit import FIRST, AuditChain, make_entry


def written(count: int) -> list[bytes]:
    made, before = [], FIRST
    for number in range(1, count + 1):
        entry = make_entry(
            action_id=f"a{number}",
            who="sam",
            role="operator",
            operation="promote_version",
            target="version=2",
            reason="it is better",
            outcome="done",
        )
        made.append(encode(replace(entry, number=number, time=1000 * number, before=before)))
        before = sha256(made[-1]).hexdigest()
    return made


def chain_of(messages: list[bytes]) -> AuditChain:
    chain = AuditChain()
    for offset, raw in enumerate(messages):
        chain.take(offset, raw)
    return chain


def test_what_consoles_wrote_fits_together() -> None:
    messages = written(4)
    chain = chain_of(messages)
    assert chain.breaks == []
    assert [entry.number for entry in chain.newest_first] == [4, 3, 2, 1]
    assert chain.digest == sha256(messages[-1]).hexdigest()


def test_each_break_is_found() -> None:
    messages = written(5)
    other = encode(replace(chain_of(messages).entries[2], who="nobody"))
    for broken in (
        [*messages[:2], other, *messages[3:]],
        [*messages[:2], *messages[3:]],
        [messages[1], messages[0], *messages[2:]],
        [*messages[:3], messages[2], *messages[3:]],
        messages[1:],
        [*messages, b"no entry"],
    ):
        assert chain_of(broken).breaks, broken
