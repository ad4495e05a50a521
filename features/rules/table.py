"""The catalogue as columns: what an expression asks of all items is answered at once.

N items, D different values of a column.

Each column holds a code for each item and the values that the codes stand for, each once. So a
question about a text is asked once for each different text, remembered, and looked up by code; and
an item that changes costs one write a column. Numbers stand beside the codes as they are.
"""

from array import array
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache
from headwater_client.events import Item

from features.schema import BoolArray, Float64Array, Int64Array
from features.topics import hash64

ItemValue = str | float | bool | tuple[str, ...] | None
Int32Array = npt.NDArray[np.int32]
ArrayT = TypeVar("ArrayT", Int32Array, Float64Array)

ATTRIBUTE = "attributes."
MAX_ATTRIBUTES = 200
# Codes of what is no value: an attribute that the item lacks, and a number, which stands beside.
ABSENT, NUMBER = 0, 1
_REMEMBERED = 64
_REMEMBERED_CHANGES = 4096
_LEAST_ROOM = 64
_SPARE_VALUES = 1024


class ValueAnswers(NamedTuple):
    """What a question about a value comes to: bool[D], where it is true, and where it is false.

    Neither is an error, as CEL calls it: a text is not below a number.
    """

    true: BoolArray
    false: BoolArray


_NO_ANSWERS = ValueAnswers(*np.zeros((2, NUMBER + 1), np.bool_))
_STATES: Mapping[bool | None, int] = {True: 1, False: 0, None: -1}


class ItemColumn:
    """One attribute of all items.

    Attributes:
        codes: int32[N]; `ABSENT`, `NUMBER`, or where in `values` the item's value stands.
        numbers: float64[N], not a number where the item has none; None where no item has one.
        values: by code.
    """

    def __init__(self, size: int) -> None:
        self.codes: Int32Array = np.zeros(size, np.int32)
        self.numbers: Float64Array | None = None
        self.values: list[ItemValue] = [None, None]
        self._places: dict[ItemValue, int] = {}
        self._holders: dict[str, array[int]] = {}
        self._answers: LRUCache[object, ValueAnswers] = LRUCache(_REMEMBERED)

    def grow(self, size: int) -> None:
        """Make room for so many items; the new ones lack the attribute."""
        more = size - len(self.codes)
        self.codes = np.pad(self.codes, (0, more))
        if self.numbers is not None:
            self.numbers = np.pad(self.numbers, (0, more), constant_values=np.nan)

    def put(self, row: int, value: ItemValue) -> None:
        """Set the value of one item."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.numbers is None:
                self.numbers = np.full(len(self.codes), np.nan)
            self.codes[row], self.numbers[row] = NUMBER, as_double(value)
        else:
            code = self._place(value)
            self.clear(row)
            self.codes[row] = code

    def clear(self, row: int) -> None:
        """Let one item lack the attribute."""
        self.codes[row] = ABSENT
        if self.numbers is not None:
            self.numbers[row] = np.nan

    def _place(self, value: ItemValue) -> int:
        code = self._places.get(value)
        if code is None:
            if len(self.values) > 2 * len(self.codes) + _SPARE_VALUES:
                self._forget_unused()
            code = self._places[value] = len(self.values)
            self.values.append(value)
            self._note_texts(value, code)
        return code

    def _note_texts(self, value: ItemValue, code: int) -> None:
        if isinstance(value, tuple):
            for text in value:
                self._holders.setdefault(text, array("q")).append(code)

    def _forget_unused(self) -> None:
        """Drop the values that no item has any more."""
        is_used = np.zeros(len(self.values), np.bool_)
        is_used[self.codes] = True
        is_used[[ABSENT, NUMBER]] = True
        self.codes = (np.cumsum(is_used, dtype=np.int32) - 1)[self.codes]
        self.values = [value for value, used in zip(self.values, is_used, strict=True) if used]
        self._places = {value: code for code, value in enumerate(self.values) if code > NUMBER}
        self._holders.clear()
        for value, code in self._places.items():
            self._note_texts(value, code)
        self._answers.clear()

    def code_of(self, value: ItemValue) -> int:
        """The code of a value that is no number; -1 where no item has it."""
        return self._places.get(value, -1)

    def ask(self, question: object, answer: Callable[[ItemValue], bool | None]) -> ValueAnswers:
        """What a question comes to for each value; asked once for each.

        Args:
            question: names it: the same for the same answers.
            answer: of one value; None is an error.
        """
        known = self._answers.get(question, _NO_ANSWERS)
        if len(known.true) < len(self.values):
            new = self.values[len(known.true) :]
            found = np.fromiter(map(_STATES.__getitem__, map(answer, new)), np.int8, len(new))
            known = self._answers[question] = ValueAnswers(
                np.concatenate([known.true, found == _STATES[True]]),
                np.concatenate([known.false, found == _STATES[False]]),
            )
        return known

    def ask_lists(
        self, question: object, answer: Callable[[str], bool | None], *, is_any: bool
    ) -> ValueAnswers:
        """What a question about each text of a list comes to for the list; asked once for each.

        Args:
            question, answer: as of `ask`, of one text of a list.
            is_any: whether one text is enough, or all have to be it.
        """
        known = self._answers.get(question)
        if known is None or len(known.true) < len(self.values):
            found = {state: np.zeros(len(self.values), np.bool_) for state in _STATES}
            for text, codes in self._holders.items():
                found[answer(text)][codes] = True
            is_list = np.arange(len(self.values)) > NUMBER
            decided = found[is_any]
            other = is_list & ~decided & ~found[None]
            known = ValueAnswers(decided, other) if is_any else ValueAnswers(other, decided)
            self._answers[question] = known
        return known

    def codes_with(self, text: str) -> Int64Array:
        """The codes of the lists that hold a text."""
        return np.array(self._holders.get(text, ()), np.int64)


class CatalogueTable:
    """Items by row, in the order in which they came; an item keeps its row.

    Attributes:
        item_ids: by row.
        attributes: the names of all attributes that items have had, sorted.
        revision: how many changes there were.
    """

    def __init__(self) -> None:
        self.item_ids: list[str] = []
        self.attributes: list[str] = []
        self.revision = 0
        self._changed: deque[int] = deque(maxlen=_REMEMBERED_CHANGES)
        self._rows: dict[str, int] = {}
        self._rows_by_hash: dict[int, int] = {}
        self._columns = {name: ItemColumn(0) for name in FIELDS}
        self._room = 0

    def __len__(self) -> int:
        return len(self.item_ids)

    def changed_since(self, revision: int) -> Int64Array | None:
        """The rows that have changed since a revision; None where they are too many to tell."""
        changes = self.revision - revision
        if changes > len(self._changed):
            return None
        newest = islice(reversed(self._changed), changes)
        return np.unique(np.fromiter(newest, np.int64, changes))

    def put(self, item: Item) -> None:
        """Take an item as it is now, in place of what was known of it."""
        row = self._rows.get(item.item_id)
        if row is None:
            row = self._add_row(item.item_id)
        else:
            for name, column in self._columns.items():
                if name not in FIELDS and column.codes[row] != ABSENT:
                    column.clear(row)
        self.revision += 1
        self._changed.append(row)
        for name, read in FIELDS.items():
            self._columns[name].put(row, read(item))
        for name, value in item.attributes.items():
            if value is not None and (found := self._attribute(name)) is not None:
                found.put(row, value)

    def _attribute(self, name: str) -> ItemColumn | None:
        """The column of an attribute; None for one that is more than there may be."""
        column = self._columns.get(f"{ATTRIBUTE}{name}")
        if column is None and len(self._columns) < len(FIELDS) + MAX_ATTRIBUTES:
            column = self._columns[f"{ATTRIBUTE}{name}"] = ItemColumn(self._room)
            insort(self.attributes, name)
        return column

    def add(self, item_ids: Iterable[str]) -> None:
        """Give each item a row; one that had none is available, and nothing else is known of it."""
        for name in item_ids:
            if name not in self._rows:
                self.put(Item(item_id=name))

    def _add_row(self, item_id: str) -> int:
        row = self._rows[item_id] = self._rows_by_hash[hash64(item_id)] = len(self.item_ids)
        self.item_ids.append(item_id)
        if row >= self._room:
            self._room = max(_LEAST_ROOM, 2 * self._room)
            for column in self._columns.values():
                column.grow(self._room)
        return row

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def row_of(self, item_id: str) -> int:
        """The row of an item; -1 where it has none."""
        return self._rows.get(item_id, -1)

    def rows_of_hashes(self, hashes: Iterable[int]) -> Int64Array:
        """The rows of items by their hashes; those that have none are left out."""
        found = (self._rows_by_hash.get(each) for each in hashes)
        return np.array([row for row in found if row is not None], np.int64)

    def rows_of(self, item_ids: Sequence[str]) -> Int64Array:
        """The row of each item, int64[n]; -1 where it has none."""
        rows = (self._rows.get(name, -1) for name in item_ids)
        return np.fromiter(rows, np.int64, len(item_ids))

    def view(self, rows: Int64Array | None = None) -> "TableView":
        """The columns of these items; None: of all."""
        return TableView(self, rows)

    def find_column(self, name: str) -> ItemColumn | None:
        """A column by its name, such as `price` or `attributes.color`; None where there is none."""
        return self._columns.get(name)

    def read_value(self, item_id: str, name: str) -> ItemValue:
        """What an item has of `FIELDS`, but for its price; None where it has no row."""
        row, column = self._rows.get(item_id, -1), self._columns[name]
        return None if row < 0 else column.values[column.codes[row]]

    def copy_lists(self, name: str) -> Callable[[], dict[str, tuple[str, ...]]]:
        """What items have in a column of lists, as it is now.

        The mapping is made when it is called: in another thread, where this one must not wait.
        """
        column = self._columns[name]
        names, codes = [*self.item_ids], column.codes[: len(self.item_ids)].copy()
        lists = {code: each for code, each in enumerate(column.values) if isinstance(each, tuple)}

        def make() -> dict[str, tuple[str, ...]]:
            pairs = zip(names, codes.tolist(), strict=True)
            return {item: lists[code] for item, code in pairs if code in lists}

        return make


class TableView(NamedTuple):
    """Some items of a table, or all.

    Attributes:
        rows: int64[n]; None: all.
    """

    table: CatalogueTable
    rows: Int64Array | None

    @property
    def size(self) -> int:
        """How many items it has."""
        return len(self.table) if self.rows is None else len(self.rows)

    def select(self, array: ArrayT) -> ArrayT:
        """A column's array at these items."""
        return array[: len(self.table)] if self.rows is None else array[self.rows]


def as_double(number: float) -> float:
    """A number as columns hold it; a whole number beyond all doubles is infinite."""
    try:
        return float(number)
    except OverflowError:
        return np.inf if number > 0 else -np.inf


FIELDS: Mapping[str, Callable[[Item], ItemValue]] = {
    "id": lambda item: item.item_id,
    "title": lambda item: item.title,
    "category": lambda item: tuple(item.category),
    "brand": lambda item: item.brand,
    "price": lambda item: item.price,
    "available": lambda item: item.available,
}
"""What every item has, and how it is read: a text that was not given is empty, a price is null."""
