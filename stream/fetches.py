"""What a worker's fetches ask for: everything, with a long wait, while idle; less while busy.

Kafka looks at every partition that a fetch names, and both sides write and read each name. A worker
has all partitions of nine topics or more, and most of them are quiet: to name them a hundred times
a second cost more than the messages. aiokafka has no sessions of fetches (KIP-227), by which a
consumer names only what has changed.
"""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.protocol.fetch import FetchRequest

# A fetch waits at the broker for new messages, and only of those partitions of which none are
# buffered: with Faust's fixed 1,500 ms a message of another partition would wait as long.
BUSY_WAIT_MS = 10
# Until then the broker gathers: a steady trickle would otherwise cost a fetch an event.
BUSY_MIN_BYTES = 16 * 1024
# Where nothing came, the first message ends the wait.
IDLE_WAIT_MS = 100
IDLE_MIN_BYTES = 1
# While other partitions are busy, one that had nothing for so long is asked only so often.
QUIET_AFTER_S = 1.0
QUIET_EVERY_S = 0.05

Send = Callable[..., Awaitable[Any]]


class FetchSender:
    """Sends what aiokafka's client sends, and makes its fetches fit what the last ones brought.

    Args:
        send: of aiokafka's client.
        is_held: whether partitions are paused, or have messages that nobody has taken yet. A fetch
            does not name these, and must not keep them waiting.
        clock: s.
    """

    def __init__(
        self, send: Send, is_held: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._is_held = is_held
        self._clock = clock
        self._nodes: dict[int, _Node] = {}

    async def __call__(self, node_id: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await self._send(node_id, request, **options)
        node = self._nodes.setdefault(node_id, _Node())
        node.fit(request, self._clock(), self._is_held())
        response = await self._send(node_id, request, **options)
        node.note(response, self._clock())
        return response


class _Node:
    """What a broker's partitions brought."""

    def __init__(self) -> None:
        self._is_idle = False
        # When all were asked.
        self._all_s = -math.inf
        # When each partition had something; those of another leader meanwhile harm nothing.
        self._busy_s: dict[tuple[str, int], float] = {}

    def fit(self, request: FetchRequest, now_s: float, is_held: bool) -> None:
        if self._is_idle and not is_held:
            request._max_wait_ms, request._min_bytes = IDLE_WAIT_MS, IDLE_MIN_BYTES  # noqa: SLF001
        elif now_s - self._all_s < QUIET_EVERY_S and (busy := self._find_busy(request, now_s)):
            request._topics = busy  # noqa: SLF001
            return
        self._all_s = now_s

    def _find_busy(
        self, request: FetchRequest, now_s: float
    ) -> list[tuple[str, list[tuple[int, int, int]]]]:
        since_s = now_s - QUIET_AFTER_S
        found = (
            (topic, [one for one in named if self._busy_s.get((topic, one[0]), -1) > since_s])
            for topic, named in request.topics
        )
        return [(topic, named) for topic, named in found if named]

    def note(self, response: Any, now_s: float) -> None:
        """Of a partition a response has its number first and its messages last."""
        brought = [
            (topic, partition)
            for topic, partitions in response.topics
            for partition, *_, messages in partitions
            if messages
        ]
        self._busy_s.update(dict.fromkeys(brought, now_s))
        self._is_idle = not brought
