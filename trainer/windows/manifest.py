"""What a window is: its file, its events in short, and how far Kafka was settled by then.

A manifest is JSON, sealed with a checksum: a bit that flips in an offset must not lose events.
"""

from __future__ import annotations

import msgspec
import xxhash
from headwater_client.errors import DataError
from msgspec import Struct

from trainer.windows.gathering import AssemblyState, CloseReason

SCHEMA = 1


class WindowManifest(Struct, frozen=True, kw_only=True):
    """A window. It exists once its manifest does.

    Attributes:
        file: where it is, below the windows' address.
        aside: where it lies between the manifest's creation and its move to `file`.
        sha256: of the file's content.
        refused: messages that break the event contract, since the window before.
        first_ms, last_ms: event times.
        closed_ms: when, by this machine's clock.
    """

    number: int
    file: str
    aside: str
    sha256: str
    size_bytes: int
    events: int
    late: int
    repeated: int
    refused: int
    first_ms: int
    last_ms: int
    closed_ms: int
    reason: CloseReason
    progress: AssemblyState


class _Sealed(Struct, frozen=True):
    headwater_schema: int
    xxh3: str
    manifest: msgspec.Raw


class CorruptWindowError(DataError):
    """A window cannot be read; it names the file and what to do."""

    def __init__(self, address: str, why: str, remedy: str) -> None:
        super().__init__(f"{address}: {why}: {remedy}".replace("\n", " "))


def seal(manifest: WindowManifest) -> bytes:
    """The manifest as its file has it."""
    body = msgspec.json.encode(manifest)
    digest = xxhash.xxh3_64_hexdigest(body)
    return msgspec.json.encode(_Sealed(SCHEMA, digest, msgspec.Raw(body)))


def unseal(content: bytes, address: str) -> WindowManifest:
    """The manifest in a file.

    Raises:
        CorruptWindowError: it is not as it was written, or a newer Headwater wrote it.
    """
    remedy = "put it back from a copy; without it no window can follow"
    try:
        sealed = msgspec.json.decode(content, type=_Sealed)
        if sealed.headwater_schema != SCHEMA:
            why = f"has schema {sealed.headwater_schema}, and this Headwater reads {SCHEMA}"
            raise CorruptWindowError(
                address, why, "use the Headwater that wrote it, or a newer one"
            )
        if xxhash.xxh3_64_hexdigest(bytes(sealed.manifest)) != sealed.xxh3:
            raise CorruptWindowError(address, "is damaged: its checksum differs", remedy)
        return msgspec.json.decode(sealed.manifest, type=WindowManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptWindowError(
            address, f"is not a manifest of a window: {error}", remedy
        ) from error
