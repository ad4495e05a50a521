"""Where an item stood: whose lists had it lately, and why."""

from headwater_client.admin import people

from deploy.console.parts import ConsoleOperations, ConsoleParts, ThreadTurns
from deploy.jobs.list_descriptions import CatalogueNames
from deploy.jobs.person_log import LoggedRecommendation, PersonLogReader
from stream.api.parts import ApiCall

# Newest lists of each partition: a look, and no reading of the log from its beginning.
_TAIL = 1000


class ShowingOperations(ConsoleOperations):
    """Tell where an item stood."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        self._shown_names = CatalogueNames(parts.items.table, parts.routes)
        self._list_reader = PersonLogReader(parts.settings, parts.sources)
        # It reads megabytes: others wait for their turn.
        self._list_turns = ThreadTurns(1)

    async def list_showings(self, call: ApiCall) -> people.ItemShowingsAnswer:
        """Whose lists had an item lately.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: people.ItemShowingsQuery = call.query
        item = call.path["item"]
        read = await self._list_turns.run(self._list_reader.read_newest_lists, _TAIL)
        with_it = [logged for logged in read if _find_place(logged, item)]
        of_each: dict[str, LoggedRecommendation] = {}
        for logged in with_it:
            of_each.setdefault(logged.told.user_id, logged)
        return people.ItemShowingsAnswer(
            item_id=item,
            looked_at=len(read),
            oldest_time=min((logged.time_ms for logged in read), default=None),
            found=len(with_it),
            showings=[
                self._describe_showing(logged, item, call)
                for logged in list(of_each.values())[: query.limit]
            ],
        )

    def _describe_showing(
        self, logged: LoggedRecommendation, item: str, call: ApiCall
    ) -> people.ItemShowing:
        told, place = logged.told, _find_place(logged, item)
        return people.ItemShowing(
            person=self._parts.mask(told.user_id, call.key),
            time=logged.time_ms,
            place=place,
            item=self._shown_names.explain(told.items[place - 1]),
            recommendation_id=told.recommendation_id,
            model_version=told.model_version,
            variant=told.variant,
            placement=told.placement,
        )


def _find_place(logged: LoggedRecommendation, item: str) -> int:
    """Where an item stands in a list, from 1 on; 0 where it does not."""
    names = [each.item_id for each in logged.told.items]
    return names.index(item) + 1 if item in names else 0
