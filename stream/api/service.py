"""What each operation of the API does. The transport knows nothing of this, nor this of HTTP."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from headwater_client import contract
from headwater_client.operations import OPERATIONS, Operation

from stream.api.identities import IdentityOperations
from stream.api.parts import ApiCall
from stream.api.people import PeopleOperations
from stream.api.placements import PlacementOperations
from stream.api.popular import PopularOperations
from stream.api.sending import SendingOperations
from stream.api.together import TogetherOperations


class ApiService(
    TogetherOperations,
    SendingOperations,
    PeopleOperations,
    IdentityOperations,
    PlacementOperations,
    PopularOperations,
):
    """The operations, by their names in `headwater_client.operations`.

    Attributes:
        operations: those that it answers.
    """

    operations: Sequence[Operation] = OPERATIONS
    _release = version("headwater")

    def find_work(self, operation: Operation) -> Callable[[ApiCall], Awaitable[Any]]:
        """What answers an operation."""
        work: Callable[[ApiCall], Awaitable[Any]] = getattr(self, operation.name)
        return work

    async def tell_version(self, _: ApiCall) -> contract.VersionAnswer:
        """Which release answers, with which versions of the model."""
        return contract.VersionAnswer(release=self._release, versions=self._parts.routes.loaded)
