"""People who look at a placement by the HTTP API, and click on what they like: one category."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deploy.rollout.topic import RolloutHistory, read_history
from features.rollout_messages import RolloutPhase, placement_subject
from tests.harness.api_service import Service, category_of
from tests.harness.waiting import wait_until

PEOPLE, CALLERS = 400, 4
LIKES, DISLIKES = 0.9, 0.02


class Shelf:
    """A placement on real servers.

    Args:
        liked: the category that people click on.
    """

    def __init__(self, service: Service, name: str, liked: str) -> None:
        self.name = name
        self._service = service
        self._liked = liked
        self._chance = random.Random(1)
        self._prefix = f"{self._chance.getrandbits(32):x}"

    def show(self, person: str, **fields: Any) -> Any:
        """What a person is shown."""
        asked = {"person": person, "placement": self.name, **fields}
        return self._service.take("POST", "/v1/recommendations", asked)

    def visit(self, count: int = 100) -> list[Any]:
        """So many lists, and a click on some of them; the answers."""
        people = [f"{self._prefix}-{self._chance.randrange(PEOPLE)}" for _ in range(count)]
        with ThreadPoolExecutor(CALLERS) as callers:
            answers = list(callers.map(self.show, people))
        clicks = [click for click in map(self._click, people, answers) if click]
        if clicks:
            self._service.take("POST", "/v1/events", clicks)
        return answers

    def _click(self, person: str, answer: Any) -> dict[str, Any] | None:
        for item in answer["items"]:
            is_liked = category_of(item["item_id"]) == self._liked
            if self._chance.random() < (LIKES if is_liked else DISLIKES):
                named = {"recommendation_id": answer["recommendation_id"]}
                return {"type": "click", "user_id": person, "item_id": item["item_id"], **named}
        return None

    def history(self) -> RolloutHistory:
        """What `rollouts` says of it."""
        return read_history(self._service.settings.kafka, placement_subject(self.name))

    def wait_for(self, phase: RolloutPhase, timeout_s: float = 240.0) -> RolloutHistory:
        """Visit until the newest rollout is there."""

        def is_there() -> bool:
            self.visit()
            current = self.history().current
            return current is not None and current.phase is phase

        wait_until(is_there, timeout_s)
        return self.history()
