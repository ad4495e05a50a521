"""A decoder as a fuzzer sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from headwater_client.errors import HeadwaterError


@dataclass(frozen=True)
class FuzzTarget:
    """A decoder.

    Attributes:
        read: takes bytes, or refuses them.
        refusals: the errors that its contract names.
        seeds: bytes to begin with, some of them right.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def refuse(target: FuzzTarget, raw: bytes) -> str:
    """What a target says of bytes that it refuses; "" of those that it takes.

    Raises:
        AssertionError: what it says cannot be printed in one line.
        Exception: it neither takes nor refuses them: a defect.
    """
    try:
        target.read(raw)
    except target.refusals as error:
        said = str(error)
        if isinstance(error, HeadwaterError):
            assert said.replace("\n", "").isprintable(), said
            assert len(said) < 2_000, len(said)
        return said
    return ""
