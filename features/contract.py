"""What a model expects of the rows that it is asked about, and whether today's rows fit.

A version's manifest holds its contract. A manifest of release 0.1.0 has none; its settings say the
same, and the format of its rows is the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import msgspec
from headwater_client.errors import SettingsError

# The format of rows: raised when what a column holds changes its meaning.
SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The features that a model reads.

    Attributes:
        schema_version: the format of rows.
        event_types: names of the types that a person's row has counters of, in their order.
        history_length: how many events of a person are read.
        user_half_lives_ms, category_half_lives_ms, item_half_lives_ms: as in the settings.
    """

    schema_version: int = 1
    event_types: tuple[str, ...] = ("click", "purchase")
    history_length: int
    user_half_lives_ms: tuple[int, ...]
    category_half_lives_ms: tuple[int, ...]
    item_half_lives_ms: tuple[int, ...]

    def differences(self, other: Contract) -> Iterator[str]:
        """What is not the same in another contract, for a message.

        >>> hour, day = 3_600_000, 86_400_000
        >>> old = Contract(history_length=64, user_half_lives_ms=(hour,),
        ...     category_half_lives_ms=(day,), item_half_lives_ms=(day,))
        >>> new = msgspec.structs.replace(old, user_half_lives_ms=(hour, day))
        >>> list(old.differences(new))
        ['user_half_lives_ms [3600000], not [3600000, 86400000]']
        """
        for name in self.__struct_fields__:
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                yield f"{name} {_text(mine)}, not {_text(others)}"


class _ManifestPart(msgspec.Struct):
    """What a manifest says of features."""

    contract: Contract | None = None
    settings: dict[str, dict[str, object]] = {}


def contract_of_manifest(manifest: bytes) -> Contract | None:
    """The contract of a version, by the text of its manifest; None where it does not say.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: it is no manifest.
    """
    part = msgspec.json.decode(manifest, type=_ManifestPart)
    described = part.settings.get("features")
    if part.contract is None and described:
        return msgspec.convert(described, Contract)
    return part.contract


def check_fits(model: str, expected: Contract | None, rows: Contract) -> None:
    """Refuse a model that expects other features than the rows have.

    Args:
        model: names it in the message.
        expected: what it was trained on; None, of which nothing is known, fits.
        rows: what the settings make of rows.

    Raises:
        SettingsError: it does not fit.
    """
    if expected is None:
        return
    if different := ", ".join(expected.differences(rows)):
        raise SettingsError(
            f"features: {model} was trained on {different}: set features as they were, or train "
            "a first version for the new ones with `headwater train` into an empty model_repository"
        )


def check_version_fits(folder: str, rows: Contract) -> None:
    """`check_fits` of the version in a folder.

    Args:
        folder: an address that fsspec understands (a path, s3://...).
        rows: what the settings make of rows.

    Raises:
        SettingsError: it does not fit.
        OSError: its manifest cannot be read, though it is there.
    """
    address = f"{folder.rstrip('/')}/{MANIFEST_FILE}"
    try:
        with fsspec.open(address, "rb") as file:
            manifest = file.read()
    except FileNotFoundError:
        # A model of one's own making has none: what it expects is not known.
        return
    try:
        expected = contract_of_manifest(manifest)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{address}: not a manifest: {error}") from error
    check_fits(folder, expected, rows)


def _text(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
