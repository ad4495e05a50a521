"""Faust alone: consumes as Headwater's worker does, with nothing done per event.

Run by `bench.loop`: python -m bench.loop.bare_stream EVENTS. Prints JSON:
microseconds an event.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from faust import Worker
from faust.types import EventT
from headwater_client import EVENT_TYPES
from headwater_client.topics import ITEMS

from deploy.settings import load_settings
from features.kafka import describe_log
from stream.app import add_agents, make_faust_app
from stream.settings import WorkerConfig

_WARM_UP = 0.2


@dataclass
class Counter:
    """Counts events; after so many it prints what each of them has cost, and ends."""

    events: int
    _seen: int = 0
    _since: tuple[int, float] | None = None

    async def count(self, batch: Sequence[EventT[bytes]]) -> None:
        """Count a batch."""
        self._seen += len(batch)
        if self._since is None and self._seen >= _WARM_UP * self.events:
            self._since = self._seen, time.perf_counter()
        if self._since is not None and self._seen >= self.events:
            seen, since = self._since
            microseconds = 1e6 * (time.perf_counter() - since) / (self._seen - seen)
            print(json.dumps({"faust": microseconds}), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)


def main(events: str) -> None:
    """Consume so many events."""
    settings = load_settings()
    config = WorkerConfig(
        settings.kafka, settings.store, settings.features, settings.triton, settings.worker
    )
    app = make_faust_app(config, describe_log(settings.kafka).fingerprint)
    counter = Counter(int(events))
    agents = {
        "actions": (EVENT_TYPES.topics, counter.count),
        "catalogue": ((ITEMS,), counter.count),
    }
    add_agents(app, settings.worker.batch_size, agents)
    Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
