"""An item as the text that a language model reads."""

from __future__ import annotations

from collections.abc import Iterable

from headwater_client.events import Item


def item_texts(items: Iterable[Item]) -> dict[str, str]:
    """The text of each item that has one, by item id."""
    texts = {item.item_id: item_text(item) for item in items}
    return {item_id: text for item_id, text in texts.items() if text}


def item_text(item: Item) -> str:
    """What the language model reads of an item; empty where nothing is known of it.

    >>> item_text(Item(item_id="1", title="Alien", category=["Horror"], attributes={"year": 1979}))
    'Alien. Horror. year: 1979'
    """
    attributes = [f"{name}: {value}" for name, value in sorted(item.attributes.items())]
    parts = (item.title, item.brand, ", ".join(item.category), *attributes, item.description)
    return ". ".join(part for part in parts if part)
