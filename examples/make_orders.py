"""Writes the orders of a made-up shop as CSV, for who has none at hand.

    python examples/make_orders.py orders.csv
    python examples/make_orders.py orders.csv items.json

The second file is the shop's catalogue, as `PUT /v1/items` takes it. Each customer likes two of six
categories, buys what is in season, and buys some things again.
"""

import csv
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

CATEGORIES = ("coffee", "tea", "bread", "cheese", "fruit", "garden")
ITEMS_A_CATEGORY = 12
CUSTOMERS = 400
ORDERS = 6_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("customer", "sku", "ordered_at", "unit_price", "name", "group")


def make_rows(seed: int = 7) -> list[tuple[str, ...]]:
    """The rows, in order of time."""
    chance = random.Random(seed)
    likes = {f"c{n:03}": chance.sample(CATEGORIES, 2) for n in range(CUSTOMERS)}
    rows = []
    moment = BEGIN
    for _ in range(ORDERS):
        moment += timedelta(minutes=chance.expovariate(1 / 40))
        customer = chance.choice(list(likes))
        category = chance.choice(likes[customer])
        # What is in season: the favourite of a category moves on by an item a week.
        season = (moment - BEGIN).days // 7
        number = int(season + chance.expovariate(0.5)) % ITEMS_A_CATEGORY
        price = f"{2 + 0.75 * number:.2f}"
        sku = f"{category}-{number:02}"
        rows.append(
            (customer, sku, moment.isoformat(), price, f"{category} no. {number}", category)
        )
    return rows


def make_items(rows: list[tuple[str, ...]]) -> list[dict[str, object]]:
    """Each item once, as the API has it."""
    described = {sku: (price, name, group) for _, sku, _, price, name, group in rows}
    return [
        {"item_id": sku, "title": name, "category": [group], "price": float(price)}
        for sku, (price, name, group) in sorted(described.items())
    ]


def main() -> None:
    """Write the files that the command names."""
    rows = make_rows()
    with Path(sys.argv[1]).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps({"items": make_items(rows)}))


if __name__ == "__main__":
    main()
