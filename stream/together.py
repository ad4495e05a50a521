"""Which items a version has seen taken together: tables beside versions, read when asked for."""

import asyncio
import time
from dataclasses import dataclass

import structlog

from features.together import TogetherTable, read_together
from stream.routing import BackgroundReads, Route, Routes, VersionPendingError

_LOOK_S = 0.02
log = structlog.get_logger()


@dataclass(frozen=True)
class TableFound:
    """A version's table, or why there is none."""

    table: TogetherTable | None
    problem: str = ""


class TogetherTables:
    """Reads the tables of the versions that answer, each once.

    Args:
        routes: the versions; of those that went the tables are forgotten.
        within_s: how long whoever asks first waits.
    """

    def __init__(self, routes: Routes, within_s: float) -> None:
        self._routes = routes
        self._within_s = within_s
        self._reads = BackgroundReads(read_together)
        self._found: dict[str, TableFound] = {}

    async def find(self, route: Route) -> TableFound:
        """The table of a version."""
        address, version = route.version.address, route.version.version
        if address in self._found:
            return self._found[address]
        until = time.monotonic() + self._within_s
        while True:
            try:
                table = self._reads(address)
            except VersionPendingError:
                if time.monotonic() > until:
                    return TableFound(None, f"the table of version {version} is being read")
            except Exception as error:  # noqa: BLE001  (an address is others' work: it is said)
                log.warning("together_unreadable", version=version, reason=str(error))
                return TableFound(None, f"the table of version {version} cannot be read")
            else:
                break
            await asyncio.sleep(_LOOK_S)
        problem = "" if table else f"version {version} was exported without such a table"
        answering = {each.version.address for each in self._routes.answering}
        kept = {name: found for name, found in self._found.items() if name in answering}
        self._found = kept | {address: TableFound(table, problem)}
        return self._found[address]
