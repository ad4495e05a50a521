"""What the console's operations use, and how people are called before who may not know them."""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, TypeVar

import structlog
from cachetools import LRUCache
from headwater_client.contract import Scope

from deploy.console.audit import AuditLog
from deploy.console.outlook import DemandOutlook
from deploy.console.rates import SignalFollower
from deploy.settings import Settings
from stream.api.keys import ApiKey, has_scope
from stream.api.parts import ApiParts, Operations
from stream.api.problems import refuse
from trainer.windows.store import WindowStore

Done = TypeVar("Done")
log = structlog.get_logger()
_SHOWN_PEOPLE = 100_000
_DIGITS = 20
MASK_PREFIX = "person-"


class PersonMasks:
    """Names for people that say nothing of who they are: keyed hashes of their ids.

    Args:
        secret: of the keyed hash.

    >>> masks = PersonMasks("s" * 32)
    >>> name = masks.cover("ann")
    >>> masks.find(name), masks.find("person-0")
    ('ann', None)
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._shown: LRUCache[str, str] = LRUCache(_SHOWN_PEOPLE)

    def cover(self, person: str) -> str:
        """The name of a person, which `find` leads back."""
        digest = hmac.new(self._secret, person.encode(errors="surrogateescape"), sha256)
        name = MASK_PREFIX + digest.hexdigest()[:_DIGITS]
        self._shown[name] = person
        return name

    def find(self, name: str) -> str | None:
        """Whose name it is, of the people that this process has shown."""
        found: str | None = self._shown.get(name)
        return found


class ThreadTurns:
    """Lets so many threads work at once, whoever has stopped waiting for one.

    What is cancelled in `asyncio` goes on in its thread: it keeps its turn until it is done.
    """

    def __init__(self, most: int) -> None:
        self._turns = asyncio.Semaphore(most)

    async def run(self, work: Callable[..., Done], *arguments: Any) -> Done:
        """What some work in a thread returns, once it is its turn."""
        await self._turns.acquire()
        working = asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))
        working.add_done_callback(self._end_turn)
        return await asyncio.shield(working)

    def _end_turn(self, working: "asyncio.Future[Any]") -> None:
        self._turns.release()
        if not working.cancelled() and (error := working.exception()) is not None:
            # Who waits for it is told by the future itself.
            log.debug("thread_work_failed", reason=str(error))


@dataclass(frozen=True, kw_only=True)
class ConsoleParts(ApiParts):
    """What the operations of the console use, besides what those of the API do.

    Attributes:
        settings: all of them.
        audit: who has changed what.
        masks: None where everyone may see people's ids.
    """

    settings: Settings
    audit: AuditLog
    masks: PersonMasks | None

    @cached_property
    def outlook(self) -> DemandOutlook:
        """What is expected of items and categories."""
        return DemandOutlook(WindowStore(self.settings.windows_address), self.items.table)

    @cached_property
    def signals(self) -> SignalFollower:
        """Rates, features and scores that are not as they were."""
        store = WindowStore(self.settings.windows_address)
        return SignalFollower(
            self.settings.kafka, store, self.settings.monitoring, self.items.table
        )

    def may_read_people(self, key: ApiKey) -> bool:
        """Whether the holder of a key may see people's ids."""
        return self.masks is None or has_scope(key, Scope.READ_PEOPLE)

    def check_may_ask(self, key: ApiKey, *, asks_for_person: bool) -> None:
        """Refuse a question whose answer tells what is known of somebody who is masked.

        Raises:
            RequestError: people are masked for this key, and an expression asks for them.
        """
        if asks_for_person and not self.may_read_people(key):
            raise refuse(
                "scope",
                "an expression asks what is known of a person, and people are masked for this key",
                "leave it out, or use a key with the scope read-people",
            )

    def mask(self, person: str, key: ApiKey) -> str:
        """A person's id, as the holder of a key may see it."""
        if self.masks is None or self.may_read_people(key):
            return person
        return self.masks.cover(person)

    def unmask(self, name: str, key: ApiKey) -> str:
        """The id of a person as the holder of a key calls them: in a link, or typed in.

        Raises:
            RequestError: people are masked, and it is no name that was shown to such a key.
        """
        if self.masks is None or self.may_read_people(key):
            return name
        person = self.masks.find(name)
        if person is None:
            raise refuse(
                "not-found",
                "people's ids are masked for this key, and nobody was shown under this name",
                "follow a link, or use a key with the scope read-people",
            )
        return person

    @classmethod
    def extend(cls, parts: ApiParts, **more: object) -> "ConsoleParts":
        """The parts of the API, and more."""
        known: Sequence[str] = [field.name for field in fields(parts)]
        return cls(**{name: getattr(parts, name) for name in known}, **more)  # type: ignore[arg-type]


class ConsoleOperations(Operations):
    """Some of the operations of the console."""

    _parts: ConsoleParts

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
