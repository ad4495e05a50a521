"""What each operation of the API does. The transport knows nothing of this, nor this of HTTP."""

from importlib.metadata import version

from headwater_client import contract

from stream.api.identities import IdentityOperations
from stream.api.parts import ApiCall
from stream.api.people import PeopleOperations
from stream.api.placements import PlacementOperations
from stream.api.sending import SendingOperations
from stream.api.together import TogetherOperations


class ApiService(
    TogetherOperations,
    SendingOperations,
    PeopleOperations,
    IdentityOperations,
    PlacementOperations,
):
    """The operations, by their names in `headwater_client.operations`."""

    _release = version("headwater")

    async def tell_version(self, _: ApiCall) -> contract.VersionAnswer:
        """Which release answers, with which versions of the model."""
        return contract.VersionAnswer(release=self._release, versions=self._parts.routes.loaded)
