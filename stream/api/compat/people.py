"""What apps say of people: attributes, whole or in part."""

import asyncio
from collections.abc import Mapping
from typing import Any

from cachetools import TTLCache
from headwater_client.contract import AttributesQuery

from stream.api.compat.dialect import make_call, make_query
from stream.api.parts import ApiCall, ApiParts
from stream.api.service import ApiService

_KEPT, _KEPT_S = 10_000, 10.0
_AT_ONCE = 100
Said = Mapping[str, Any]


class PersonEditor:
    """Reads and writes what is said of people; what was sent a moment ago is known, as of items."""

    def __init__(self, service: ApiService, parts: ApiParts) -> None:
        self._service = service
        self._parts = parts
        self._sent: TTLCache[str, Said] = TTLCache(_KEPT, _KEPT_S)

    def has_sent(self, person: str) -> bool:
        """Whether something was said of a person a moment ago, be it nothing."""
        return person in self._sent

    async def find(self, person: str) -> Said:
        """What is said of a person.

        Raises:
            ServerError: the store does not answer.
        """
        if person in self._sent:
            return self._sent[person]
        return await self._parts.read_attributes(person)

    async def put(self, call: ApiCall, people: Mapping[str, Said]) -> None:
        """Send what is said of people, of each the whole; nothing is sent where one is not valid.

        Raises:
            EventError: an attribute cannot be kept.
            RequestError: Kafka does not take it.
        """
        queries = [
            (person, make_query(AttributesQuery, attributes=said))
            for person, said in people.items()
        ]
        for start in range(0, len(queries), _AT_ONCE):
            part = queries[start : start + _AT_ONCE]
            await asyncio.gather(*(self._send(call, person, query) for person, query in part))
        self._sent.update(people)

    async def remove(self, call: ApiCall, person: str) -> None:
        """Forget a person.

        Raises:
            RequestError: Kafka does not take it.
        """
        await self._service.erase_person(make_call(call, path={"person": person}))
        self._sent.pop(person, None)

    async def _send(self, call: ApiCall, person: str, query: AttributesQuery) -> None:
        named = make_call(call, body=query, path={"person": person})
        await self._service.put_attributes(named)
