"""Writes the orders of a made-up shop as CSV, for who has none at hand.

    python examples/make_orders.py orders.csv

Each customer likes two of six categories, buys what is in season, and buys some things again.
"""

import csv
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


def main() -> None:
    """Write the file that the command names."""
    with Path(sys.argv[1]).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(make_rows())


if __name__ == "__main__":
    main()
