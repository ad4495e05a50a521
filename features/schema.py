"""The feature schema: how many counters a row has, what they mean, and what a model expects of it.

A version's manifest holds the contract of the features that it reads. A manifest of release 0.1.0
has none; its settings say the same, and the format of its rows is the first.

A version's vocabulary says which index it gives to which item. Each version carries its own
(item_id, hash, index; Parquet), so nobody hands out indices.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import fsspec
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.decoders import convert
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import SettingsError
from headwater_client.event_types import EVENT_TYPES

from features.settings import FeatureSettings
from features.topics import hash64

# The format of rows: raised when what a column holds changes its meaning.
SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
FOREVER = float("inf")
CATEGORY_BUCKETS = 32
MAX_ADDRESS = 200
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
# A vocabulary beyond these is no vocabulary, but something that fills a worker's memory.
MAX_VOCABULARY_ITEMS = 20_000_000
MAX_VOCABULARY_BYTES = 4 * 1024**3


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

    def differences(self, other: "Contract") -> Iterator[str]:
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


class FeatureSchema:
    """How many counters a row has and what they mean; derived from the settings once.

    Every set of half-lives ends with an infinite one: the plain count, exact as long as counts
    stay below 2**53.

    Attributes:
        event_types, event_codes: of the types that a person's row has counters of.
        weight: of every type by its code, what one event adds to popularity; below 0 of a type
            that takes another one's events back.
        stands_for: by code, the code in whose counters and for which an event stands in a person's
            row; types without a place there are not in it.
        takes_back: by code, the code of the type whose events it takes back.
        can_be_taken_back: the codes of those.
        seen_by: the codes of types whose items are not recommended again.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.user_half_lives = (*map(float, settings.user_half_lives_ms), FOREVER)
        self.category_half_lives = tuple(map(float, settings.category_half_lives_ms))
        self.item_half_lives = (*map(float, settings.item_half_lives_ms), FOREVER)
        self.event_types = tuple(spec.name for spec in EVENT_TYPES.with_counters)
        self.event_codes = tuple(spec.code for spec in EVENT_TYPES.with_counters)
        self.weight = settings.weights()
        specs = EVENT_TYPES.values()
        self.stands_for = {
            spec.code: EVENT_TYPES[spec.counts_as or spec.name].code
            for spec in specs
            if spec.has_counters or spec.counts_as
        }
        self.takes_back = {
            spec.code: EVENT_TYPES[spec.takes_back].code for spec in specs if spec.takes_back
        }
        self.can_be_taken_back = frozenset(self.takes_back.values())
        self.seen_by = frozenset(
            spec.code
            for spec in specs
            if spec.negative or not {spec.name, spec.counts_as}.isdisjoint(settings.seen_by)
        )

    @property
    def contract(self) -> Contract:
        """What a model that is trained on these rows expects."""
        return Contract(
            schema_version=SCHEMA_VERSION,
            event_types=self.event_types,
            history_length=self.settings.history_length,
            user_half_lives_ms=self.settings.user_half_lives_ms,
            category_half_lives_ms=self.settings.category_half_lives_ms,
            item_half_lives_ms=self.settings.item_half_lives_ms,
        )

    @property
    def row_mark(self) -> str:
        """What a store with rows of this schema is marked with: JSON of all that changes rows."""
        mark = {"schema_version": SCHEMA_VERSION, "event_types": self.event_types}
        return json.dumps(mark | self.settings.stored_values(), sort_keys=True)

    @property
    def trending_index(self) -> int:
        """Which of the items' half-lives trending items are ranked by."""
        return self.settings.item_half_lives_ms.index(self.settings.trending_half_life_ms)

    @property
    def user_counters(self) -> int:
        """Length of a user row's counters: event types x half-lives."""
        return len(self.event_codes) * len(self.user_half_lives)

    @property
    def user_feature_count(self) -> int:
        """How many features the model reads of a person: a counter each, and category buckets."""
        return self.user_counters + CATEGORY_BUCKETS

    @property
    def trend_count(self) -> int:
        """How many half-lives an item's popularity is decayed by; the plain count is left out."""
        return len(self.item_half_lives) - 1


class RowMark:
    """What a store is marked with: the schema of the rows that are in it.

    A mark of release 0.1.0 says neither the version of the schema nor the types of events: both
    are the first.
    """

    def __init__(self, text: str) -> None:
        self._described: dict[str, Any]
        try:
            self._described = _FIRST_MARK | read_json(text, dict[str, Any])
        except DocumentError:
            self._described = {}

    def fits(self, other: Self) -> bool:
        """Whether whoever writes rows of another mark can read these.

        All that changes rows has to be the same. Types of events may have been added since: rows
        get counters of them when they are read.
        """
        mine, others = dict(self._described), dict(other._described)
        types, more = mine.pop("event_types", None), others.pop("event_types", None)
        return mine == others and isinstance(types, list) and more[: len(types)] == types

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowMark) and self._described == other._described

    def __hash__(self) -> int:
        return hash(json.dumps(self._described, sort_keys=True))


_FIRST_MARK = {"schema_version": 1, "event_types": ["click", "purchase"]}


class _ManifestPart(msgspec.Struct):
    """What a manifest says of features."""

    contract: Contract | None = None
    settings: dict[str, dict[str, object]] = {}


def contract_of_manifest(manifest: bytes) -> Contract | None:
    """The contract of a version, by the text of its manifest; None where it does not say.

    Raises:
        ValueError: it is no manifest.
    """
    part = read_json(manifest, _ManifestPart)
    described = part.settings.get("features")
    if part.contract is None and described:
        return convert(described, Contract)
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
        with open_address(address) as file:
            manifest = file.read(MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        # A model of one's own making has none: what it expects is not known.
        return
    try:
        expected = contract_of_manifest(manifest)
    except ValueError as error:
        raise SettingsError(f"{address}: not a manifest: {error}") from error
    check_fits(folder, expected, rows)


def _text(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


PADDING = 0
UNKNOWN = 1
FIRST_ITEM = 2
FILE_NAME = "vocabulary.parquet"
COLUMNS = ("item_id", "index", "learned")


class Vocabulary:
    """Items by index and indices by hash.

    Args:
        item_ids: the items at index 2 and on (0 is padding, 1 an unknown item).
        learned: which of them the version has learned from events; default: all.

    Attributes:
        learned: bool[N], by index; the others are known by what the catalogue says of them.
    """

    unknown = UNKNOWN

    def __init__(self, item_ids: Sequence[str], learned: Sequence[bool] | None = None) -> None:
        self.item_ids = ["", "", *item_ids]
        self.learned = np.ones(len(self.item_ids), np.bool_)
        if learned is not None:
            self.learned[FIRST_ITEM:] = learned
        hashes = np.fromiter((hash64(name) for name in item_ids), np.int64, len(item_ids))
        order = np.argsort(hashes)
        self._hashes: npt.NDArray[np.int64] = hashes[order]
        self._indices: npt.NDArray[np.int64] = order.astype(np.int64) + FIRST_ITEM

    def __len__(self) -> int:
        """Rows of the model's item table: the items, padding and the unknown item."""
        return len(self.item_ids)

    def indices(self, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The index of each hash, same shape; `UNKNOWN` where this version does not have it."""
        if not len(self._hashes):
            return np.full(hashes.shape, UNKNOWN, np.int64)
        place = np.searchsorted(self._hashes, hashes)
        place[place == len(self._hashes)] = 0
        return np.where(self._hashes[place] == hashes, self._indices[place], UNKNOWN)

    def indices_of(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The index of each item id, int64[n]."""
        return self.indices(np.fromiter(map(hash64, item_ids), np.int64, len(item_ids)))

    def write(self, path: str) -> None:
        """Write as Parquet to a file."""
        names = self.item_ids[FIRST_ITEM:]
        table: Any = pa.table(
            {
                "item_id": pa.array(names, pa.string()),
                "hash": pa.array([hash64(name) for name in names], pa.int64()),
                "index": pa.array(range(FIRST_ITEM, len(self)), pa.int64()),
                "learned": pa.array(self.learned[FIRST_ITEM:], pa.bool_()),
            }
        )
        with Path(path).open("wb") as file:
            pq.write_table(table, file)


def open_address(address: str) -> Any:
    """A file to read in a `with` block: at a path, a file:// URI, or whatever fsspec knows.

    Paths and URIs of this machine are opened as they are: fsspec would neither decode `%20` nor
    take `*`, `[1]` or `::` for letters.
    """
    scheme, is_uri, rest = address.partition("://")
    if not is_uri or scheme == "file":
        return Path(unquote(rest) if is_uri else address).open("rb")
    return fsspec.open(address, "rb", expand=False)


def read_vocabulary(address: str) -> Vocabulary:
    """The vocabulary at an address that fsspec understands (a path, s3://...).

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, a column is missing, or its indices do not count up from 2.
    """
    try:
        table = _read_columns(address)
    except pa.ArrowException as error:
        # Some of Arrow's errors are no ValueError.
        raise ValueError(f"{address}: cannot be read: {error}: publish a new version") from error
    if table["index"].to_pylist() != list(range(FIRST_ITEM, FIRST_ITEM + len(table))):
        raise ValueError(f"{address}: indices do not count up from {FIRST_ITEM}")
    return Vocabulary(table["item_id"].to_pylist(), table["learned"].to_pylist())


def _read_columns(address: str) -> Any:
    with open_address(address) as file:
        parquet = pq.ParquetFile(file)
        _check_size(address, parquet.metadata)
        if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
            raise ValueError(f"{address}: no column {min(missing)}: publish a new version")
        return parquet.read(columns=list(COLUMNS))


def _check_size(address: str, metadata: pq.FileMetaData) -> None:
    """Refuse by the footer what would not fit into memory, before it is unpacked."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    size = sum(group.total_byte_size for group in groups)
    if metadata.num_rows > MAX_VOCABULARY_ITEMS or size > MAX_VOCABULARY_BYTES:
        raise ValueError(
            f"{address}: {metadata.num_rows} items of {size} bytes: at most "
            f"{MAX_VOCABULARY_ITEMS} items of {MAX_VOCABULARY_BYTES} bytes"
        )


def read_version(address: str, contract: Contract | None, allowed: Sequence[str]) -> Vocabulary:
    """The vocabulary of a version that somebody else names, once all of it is checked.

    Args:
        address: of the vocabulary, in the version's folder.
        contract: what the settings make of rows.
        allowed: see `check_address`.

    Raises:
        SettingsError: it may not be read, or was trained on other features.
        Exception: the file system that the address names raises what it likes.
    """
    check_address(address, allowed)
    if contract is not None:
        check_version_fits(address.removesuffix(f"/{FILE_NAME}"), contract)
    return read_vocabulary(address)


def check_address(address: str, allowed: Sequence[str]) -> None:
    """Refuse to read a version from where the settings do not allow it.

    Args:
        allowed: addresses below which versions may lie; empty: any local path.

    Raises:
        SettingsError: it lies elsewhere; it names the setting.
    """
    place = _normalise(address)
    if place is None:
        raise SettingsError(f"address {address[:MAX_ADDRESS]!r}: has .. or :: in it: not read")
    prefixes = [_normalise(each) for each in allowed]
    is_local = place.startswith("/")
    if (is_local and not prefixes) or any(
        prefix is not None and f"{place}/".startswith(f"{prefix.rstrip('/')}/")
        for prefix in prefixes
    ):
        return
    where = ", ".join(allowed) or "a local path"
    raise SettingsError(
        f"address {address[:MAX_ADDRESS]!r}: is not below {where}: if versions lie there, set "
        "worker.model_addresses"
    )


def _normalise(address: str) -> str | None:
    """An address in the one form that addresses are compared in; None for one that could escape."""
    plain = unquote(address)
    if "::" in address or "\0" in plain or ".." in plain.replace("\\", "/").split("/"):
        return None
    for scheme in ("file://", "local://"):
        plain = plain.removeprefix(scheme)
    return plain if "://" in plain else str(Path(plain).absolute())


BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by tensor name: what a model is given, or what it answers."""
