"""A catalogue of any size: a log's items, and made-up ones beside them."""

import random
from collections.abc import Iterator, Sequence

from headwater_client.events import Item
from msgspec.structs import replace

_SEED = 7


def extend_catalogue(items: Sequence[Item], size: int) -> list[Item]:
    """The items, and made-up ones until there are so many; each has a price from 0 to 1.

    A filter by price so leaves whatever share of them is wanted.
    """
    prices = random.Random(_SEED)
    return [replace(item, price=prices.random()) for item in (*items, *_make_up(size - len(items)))]


def _make_up(count: int) -> Iterator[Item]:
    for number in range(count):
        yield Item(item_id=f"made-up-{number}", title=f"Film number {number}")
