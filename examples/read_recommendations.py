"""Keeps the newest recommendation of each person, as a web page would show it.

python examples/read_recommendations.py localhost:9092 10
"""

from __future__ import annotations

import sys

from headwater_client import HeadwaterError, KafkaSettings, Recommendation, RecommendationConsumer


def read_newest(address: str, quiet_s: float) -> dict[str, Recommendation]:
    """The newest recommendation of each person, until none has come for so long."""
    newest: dict[str, Recommendation] = {}
    with RecommendationConsumer(KafkaSettings(address), timeout_s=quiet_s) as answers:
        print("listening", flush=True)
        for answer in answers:
            newest[answer.user_id] = answer
    return newest


def show(answer: Recommendation) -> str:
    """One line: what for whom, and why."""
    items = ", ".join(f"{item.item_id} ({item.reason.kind})" for item in answer.items)
    return f"{answer.user_id}: {items}"


if __name__ == "__main__":
    try:
        found = read_newest(sys.argv[1], float(sys.argv[2]))
    except HeadwaterError as error:
        sys.exit(str(error))
    print("\n".join(show(answer) for answer in found.values()))
