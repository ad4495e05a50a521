"""Items that are changed in part: what is said replaces that alone, so the rest has to be known."""

from collections.abc import Sequence
from dataclasses import replace

from cachetools import TTLCache
from headwater_client import Item
from headwater_client.contract import MAX_EVENTS, ItemsQuery

from stream.api.compat.dialect import make_call
from stream.api.parts import ApiCall, ApiParts
from stream.api.service import ApiService

_KEPT, _KEPT_S = 10_000, 10.0


class ItemEditor:
    """Reads and writes the catalogue.

    What was sent a moment ago is known here before a worker has brought it to the store: who
    changes an item twice, or puts it and asks for it, finds what they have said. Another process of
    the service knows it once the store does.
    """

    def __init__(self, service: ApiService, parts: ApiParts) -> None:
        self._service = service
        self._parts = parts
        self._sent: TTLCache[str, Item | None] = TTLCache(_KEPT, _KEPT_S)

    async def find(self, item_id: str) -> Item | None:
        """All that is said of an item; None where nothing is, or it was taken out.

        Raises:
            ServerError: the store does not answer.
        """
        if item_id in self._sent:
            return self._sent[item_id]
        return await self._parts.recommender.items.catalogue.find(item_id)

    async def put(self, call: ApiCall, items: Sequence[Item]) -> None:
        """Send items, each whole.

        Raises:
            RequestError: Kafka does not take one.
        """
        for start in range(0, len(items), MAX_EVENTS):
            part = list(items[start : start + MAX_EVENTS])
            await self._service.put_items(make_call(call, body=ItemsQuery(items=part)))
            self._sent.update({item.item_id: item for item in part})

    async def remove(self, call: ApiCall, item_id: str) -> None:
        """Take an item out of the catalogue.

        Raises:
            EventError: the id is none that an item can have.
            RequestError: Kafka does not take the message.
        """
        await self._service.delete_item(replace(call, path={"item": item_id}))
        self._sent[item_id] = None
