"""Logs of other recommenders as logs of Headwater: what becomes of each row is counted.

    path -> rows, as JSON -> events, items, people, refused, skipped

An event is named for what it says, so the same log sent again is the same events.
"""

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
from headwater_client import EVENT_TYPES, EventError, Interaction, Item, decode, encode
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import DataError
from headwater_client.events import PersonAttributes

from deploy.jobs.gorse_dump import is_dump, read_dump
from features.events import current_ms
from features.settings import EventSettings
from stream.api.compat import gorse_forms, metarank_forms
from stream.api.compat.gorse_forms import GorseFeedback, GorseItem, GorseUser
from stream.api.compat.metarank_forms import MetarankEvent
from stream.api.compat.values import EventAliases, read_time_ms
from stream.api.intake import EventIntake
from trainer.datasets import Log, RefusedRecord, RowCounts

RANKINGS = "of rankings, as what was shown is not kept"
TWICE = "that another row says, too"
LATER = "of an item or a person that a later row describes"
_GZIP = b"\x1f\x8b"
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".bin", ".dump")
# What the columns of Gorse's tables were called, in lower case and without what parts words.
_COLUMNS = {
    "feedbacktype": "FeedbackType",
    "userid": "UserId",
    "itemid": "ItemId",
    "timestamp": "Timestamp",
    "ishidden": "IsHidden",
    "categories": "Categories",
    "labels": "Labels",
    "description": "Comment",
    "comment": "Comment",
    "subscribe": "Subscribe",
    "value": "Value",
}
_MANY = "|"


class FileRow(NamedTuple):
    """A row of a file: where it stands, from 1, and what it says, as JSON."""

    table: str
    number: int
    raw: bytes


class ForeignLog(NamedTuple):
    """A log, and what is said of people in it."""

    log: Log
    people: Sequence[PersonAttributes]


class LogCollector:
    """Collects what rows become. Each row is counted once.

    Args:
        settings: whose events count, and what becomes of one of a wrong clock.
    """

    def __init__(self, settings: EventSettings) -> None:
        self.items: dict[str, Item] = {}
        self.people: dict[str, PersonAttributes] = {}
        self._intake = EventIntake(settings)
        self._events: dict[str, Interaction] = {}
        self._refused: list[RefusedRecord] = []
        self._skipped: Counter[str] = Counter()
        self._of_items = self._of_people = self._rows = 0

    def add(self, row: FileRow, take: Callable[[bytes], None]) -> None:
        """Take a row, or keep why it was refused."""
        self._rows += 1
        try:
            take(row.raw)
        except EventError as error:
            kind = f"{error.field}: {error.expected.partition(': expected')[0]}"
            # No topic takes it as it is, so it ends among the dead letters.
            self._refused.append(
                RefusedRecord(row.table, row.number, str(error), _TOPIC, row.raw, kind)
            )

    def add_event(self, made: dict[str, Any]) -> None:
        """Take an event, as the API takes it.

        Raises:
            EventError: it breaks the contract.
        """
        event = self._intake.read(encode(made))
        if event.event_id in self._events:
            self._skipped[TWICE] += 1
        else:
            self._events[event.event_id] = event

    def add_item(self, made: dict[str, Any], *, is_whole: bool) -> None:
        """Take an item.

        Args:
            is_whole: whether it replaces what was said of it before, which then was said in vain.

        Raises:
            EventError: it breaks the contract.
        """
        item = decode(Item, encode(made))
        if is_whole and item.item_id in self.items:
            self._skipped[LATER] += 1
        else:
            self._of_items += 1
        self.items[item.item_id] = item

    def add_person(self, user_id: str, attributes: Mapping[str, Any], *, is_whole: bool) -> None:
        """Take what is said of a person; as `add_item`."""
        made = {"user_id": user_id, "attributes": attributes}
        person = decode(PersonAttributes, encode(made))
        if is_whole and user_id in self.people:
            self._skipped[LATER] += 1
        else:
            self._of_people += 1
        self.people[user_id] = person

    def skip(self, reason: str) -> None:
        """Pass a row over."""
        self._skipped[reason] += 1

    def make_log(self) -> ForeignLog:
        """What was collected, in event-time order.

        Raises:
            HeadwaterError: a row has been lost, which is a mistake of Headwater's.
        """
        events = sorted(self._events.values(), key=lambda event: event.timestamp)
        counts = RowCounts(
            self._rows,
            len(events),
            self._of_items,
            len(self._refused),
            self._skipped,
            self._of_people,
        )
        counts.check()
        log = Log(events, list(self.items.values()), self._refused, counts)
        return ForeignLog(log, list(self.people.values()))


_TOPIC = next(iter(EVENT_TYPES.topics))


def read_gorse(path: Path, settings: EventSettings, aliases: EventAliases) -> ForeignLog:
    """A log of Gorse: a dump, or exports of users, items and feedback as JSON lines or CSV.

    Args:
        path: a file, or a folder of them; each may be compressed by gzip.

    Raises:
        DataError: there is none, or a file cannot be read as a whole.
    """
    found = LogCollector(settings)

    def take(raw: bytes) -> None:
        keys = decode_keys(raw)
        if "FeedbackType" in keys:
            feedback = decode(GorseFeedback, raw)
            if read_time_ms(feedback.timestamp, gorse_forms.TIMESTAMP) is None:
                raise EventError(gorse_forms.TIMESTAMP, feedback.timestamp or "<missing>", _WHEN)
            found.add_event(gorse_forms.make_event(feedback, aliases, current_ms()))
        elif "ItemId" in keys:
            item = decode(GorseItem, raw)
            found.add_item(gorse_forms.make_item(item.item_id, item), is_whole=True)
        elif "UserId" in keys:
            user = decode(GorseUser, raw)
            said = gorse_forms.make_attributes(user)
            found.add_person(user.user_id, said, is_whole=True)
        else:
            expected = "expected FeedbackType, ItemId or UserId, as Gorse exports them"
            raise EventError("<message>", ", ".join(keys), expected)

    for file in find_files(path):
        for row in _name_file(file, _read_gorse_rows(file)):
            found.add(row, take)
    return found.make_log()


_WHEN = "is required: of an event that has no time nobody knows when it happened"


def read_metarank(path: Path, settings: EventSettings, aliases: EventAliases) -> ForeignLog:
    """A log of Metarank: events as JSON lines, as its file source reads them.

    Args:
        path: a file, or a folder of them; each may be compressed by gzip.

    Raises:
        DataError: there is none, or a file cannot be read as a whole.
    """
    found = LogCollector(settings)

    def take(raw: bytes) -> None:
        said = decode(MetarankEvent, raw)
        if said.event == "interaction":
            found.add_event(metarank_forms.make_event(said, aliases))
        elif said.event == "item":
            known = found.items.get(said.item)
            found.add_item(metarank_forms.make_item(said, known), is_whole=False)
        elif said.event == "user":
            person = found.people.get(said.user or "")
            known_of = person.attributes if person else {}
            attributes = metarank_forms.make_attributes(said, known_of)
            found.add_person(said.user or "", attributes, is_whole=False)
        elif said.event == "ranking":
            found.skip(RANKINGS)
        else:
            known_kinds = "expected one of item, user, interaction, ranking"
            raise EventError("event", said.event, known_kinds)

    for file in find_files(path):
        for row in _name_file(file, _read_lines(file)):
            found.add(row, take)
    return found.make_log()


def decode_keys(raw: bytes) -> Sequence[str]:
    """The names of a JSON object's fields.

    Raises:
        EventError: it is none.
    """
    try:
        return list(read_json(raw, dict[str, msgspec.Raw]))
    except DocumentError as error:
        raise EventError("<message>", raw, f"expected a JSON object: {error}") from error


def find_files(path: Path) -> list[Path]:
    """The files of a log, by name.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = [file for file in sorted(path.iterdir()) if _is_log(file)]
    if not found:
        raise DataError(f"{path}: no files in it that end in {', '.join(_SUFFIXES)}, or .gz")
    return found


def _is_log(file: Path) -> bool:
    return file.is_file() and file.name.removesuffix(".gz").endswith(_SUFFIXES)


def _name_file(file: Path, rows: Iterator[FileRow]) -> Iterator[FileRow]:
    """The rows; a file that cannot be read to its end is named.

    Raises:
        DataError: it cannot.
    """
    try:
        yield from rows
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _open(file: Path) -> IO[bytes]:
    """A file's bytes, unpacked."""
    opened = file.open("rb")
    is_packed = opened.peek(2)[:2] == _GZIP
    return gzip.open(opened, "rb") if is_packed else opened  # type: ignore[return-value]


def _read_gorse_rows(file: Path) -> Iterator[FileRow]:
    with _open(file) as opened:
        if is_dump(opened.read(8)):
            opened.seek(0)
            for number, row in enumerate(read_dump(opened, file.name), 1):
                yield FileRow(file.name, number, row)
            return
    if file.name.removesuffix(".gz").endswith(".csv"):
        yield from _read_table(file)
    else:
        yield from _read_lines(file)


def _read_lines(file: Path) -> Iterator[FileRow]:
    """The lines of a file, but for empty ones."""
    with _open(file) as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield FileRow(file.name, number, line.strip())


def _read_table(file: Path) -> Iterator[FileRow]:
    """The rows of one of Gorse's tables, as it exported them before version 0.5."""
    with _open(file) as opened, io.TextIOWrapper(opened, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            heading = next(reader, [])
            names = [_COLUMNS.get(name.lower().replace("_", "").strip(), "") for name in heading]
            if not {"UserId", "ItemId"} & set(names):
                shown = ", ".join(heading)[:80]
                raise DataError(f"{file}: its first line is no heading of Gorse's: {shown}")
            for number, values in enumerate(reader, 1):
                if values:
                    yield FileRow(file.name, number, encode(_describe(names, values)))
        except csv.Error as error:
            raise DataError(f"{file}: line {reader.line_num}: {error}") from error


def _describe(names: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    """A row of a table as its JSON would be."""
    row: dict[str, Any] = {name: v for name, v in zip(names, values, strict=False) if name and v}
    if "IsHidden" in row:
        row["IsHidden"] = row["IsHidden"].lower() == "true"
    if "Categories" in row:
        row["Categories"] = row["Categories"].split(_MANY)
    if "Labels" in row:
        row["Labels"] = _read_labels(row["Labels"])
    if "Value" in row:
        row["Value"] = float(row["Value"])
    return row


def _read_labels(text: str) -> Any:
    """Labels are JSON, or in the oldest tables texts."""
    try:
        return read_json(text, object)
    except DocumentError:
        return text.split(_MANY)
