"""A web shop that sends a click with each page and never waits for Kafka.

The producer is made before the server forks its workers; each worker connects by itself with its
first event. When Kafka is away for long, clicks are lost rather than pages.

    python examples/web_app.py localhost:9092 8000
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import make_server

from headwater_client import EventError, EventProducer, KafkaSettings

Respond = Callable[[str, list[tuple[str, str]]], Any]
WORKERS = 2


def make_app(events: EventProducer) -> Callable[[dict[str, Any], Respond], Iterable[bytes]]:
    """The shop: /?user=ann&item=lamp-7 shows a page and says that ann looked at lamp-7."""

    def show_page(request: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        query = {name: values[0] for name, values in parse_qs(request["QUERY_STRING"]).items()}
        try:
            events.click(user_id=query.get("user", ""), item_id=query.get("item", ""))
        except EventError as error:
            respond("400 Bad Request", [("Content-Type", "text/plain")])
            return [f"{error}\n".encode()]
        respond("200 OK", [("Content-Type", "text/plain")])
        return [f"worker {os.getpid()} shows {query['item']}\n".encode()]

    return show_page


if __name__ == "__main__":
    producer = EventProducer(KafkaSettings(sys.argv[1]), when_full="drop")
    with make_server("127.0.0.1", int(sys.argv[2]), make_app(producer)) as server:
        print(f"serving on {server.server_port}", flush=True)
        # What a server such as gunicorn does with --preload: every worker serves the same socket.
        for _ in range(WORKERS - 1):
            if os.fork() == 0:
                break
        server.serve_forever()
