"""What happens now."""

import asyncio

from headwater_client import EVENT_TYPES
from headwater_client.admin.now import NowAnswer
from headwater_client.topics import DEAD_LETTERS, RECOMMENDATIONS

from deploy.console.parts import ConsoleOperations
from features.events import current_ms
from features.kafka import partition_bounds
from stream.api.parts import ApiCall


class NowOperations(ConsoleOperations):
    """Tell what Kafka has of each kind of message, and who answers."""

    async def tell_now(self, _: ApiCall) -> NowAnswer:
        """What happens now.

        Raises:
            ServerError: Kafka does not answer.
        """
        return await self.sample_now()

    async def sample_now(self) -> NowAnswer:
        """The same, for whoever looks.

        Raises:
            ServerError: Kafka does not answer.
        """
        ends = await asyncio.to_thread(self._count_messages)
        return NowAnswer(
            time=current_ms(),
            events=sum(ends[topic] for topic in EVENT_TYPES.all_topics),
            recommendations=ends[RECOMMENDATIONS],
            dead_letters=ends[DEAD_LETTERS],
            versions=self._parts.routes.loaded,
        )

    def _count_messages(self) -> dict[str, int]:
        """The sum of the offsets that each topic has reached."""
        kafka = self._parts.settings.kafka
        wide = (*EVENT_TYPES.all_topics, RECOMMENDATIONS)
        sources = [(topic, number) for topic in wide for number in range(kafka.partitions)]
        ends = dict.fromkeys((*wide, DEAD_LETTERS), 0)
        for (topic, _), (_, end) in partition_bounds(kafka, [*sources, (DEAD_LETTERS, 0)]).items():
            ends[topic] += end
        return ends
