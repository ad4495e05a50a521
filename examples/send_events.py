"""Sends two items and what two people did with them.

python examples/send_events.py localhost:9092
"""

from __future__ import annotations

import sys

from headwater_client import EventError, EventProducer, HeadwaterError, KafkaSettings


def main(address: str) -> None:
    """Send them, and say what became of it."""
    with EventProducer(KafkaSettings(address)) as events:
        events.item("lamp-7", title="Desk lamp", category=["lighting"], price=29.0)
        events.item("rug-2", title="Wool rug", category=["textiles"], price=180.0)
        events.click(user_id="ann", item_id="lamp-7")
        events.purchase(user_id="ann", item_id="lamp-7", price=29.0)
        events.send_interaction("click", user_id="bob", item_id="rug-2", context={"page": "home"})
        try:
            events.click(user_id="bob", item_id="rug-2", price=-1)
        except EventError as error:
            print(f"not sent: {error}")
    print("Kafka has the others")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
    except HeadwaterError as error:
        sys.exit(str(error))
